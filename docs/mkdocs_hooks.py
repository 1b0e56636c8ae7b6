"""MkDocs hook: shows the pictures of benchmarks/results/ without copies of them in docs/."""

from __future__ import annotations

from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
RESULTS = 'benchmarks/results'


def on_files(files: Files, config) -> Files:
    """Add the pictures to the site."""
    for path in sorted((ROOT / RESULTS).glob('*.png')):
        name = str(path.relative_to(ROOT))
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_) -> str:
    """In the repository the pictures are beside docs/, in the site below it."""
    return markdown.replace(f'](../{RESULTS}/', f']({RESULTS}/')
