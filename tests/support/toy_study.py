"""A study that fails on demand: its cells look for files in the folder MBARL_TOY."""

import os
import time
from pathlib import Path

from mbarl_ros.studies.study import Cell, Report, Study, Verdict


class Toy(Study):
    """Cell ``double`` needs cell ``one``, and cell ``other`` nobody."""

    name = 'toy'
    title = 'Toys'
    description = 'Doubles a number'

    def cells(self, quick):
        number = float(os.environ.get('MBARL_TOY_NUMBER', 3))
        return [
            Cell('double', {'factor': 2.0}, after=('one',)),
            Cell('one', {'number': number, 'kind': ['a', 'b']}),
            *([] if quick else [Cell('other', {'number': 1e-05})]),
        ]

    def run(self, settings, folder, report_progress):
        switches = Path(os.environ['MBARL_TOY'])
        with (switches / f'{folder.name}.runs').open('a') as file:
            file.write('x')
        report_progress(0.5)
        while (switches / f'{folder.name}.hang').exists():
            time.sleep(0.05)
        if (switches / f'{folder.name}.fail').exists():
            raise RuntimeError('the toy broke')
        if (switches / f'{folder.name}.nan').exists():
            return {'numbers': [1.0, float('nan')]}
        if folder.name == 'double':
            number = float((folder.parent / 'one' / 'number').read_text())
            return {'number': settings['factor'] * number}
        (folder / 'number').write_text(str(settings['number']))
        return {'number': settings['number']}

    def report(self, results, folder, quick):
        numbers = {name: each['result']['number'] for name, each in results.items()}
        (folder / 'toy.png').write_bytes(b'\x89PNG')
        holds = numbers['double'] == 6 if 'double' in numbers else None
        return Report(
            introduction='What toys do.',
            verdicts=[Verdict('Twice three is six', holds, f'measured {numbers}')],
            figures=[('toy.png', 'A toy')],
            tables=[('Numbers', ('cell', 'number'), sorted(numbers.items()))],
            notes='No more.',
        )
