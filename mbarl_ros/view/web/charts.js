// Curves and phases on canvases, drawn anew from bounded arrays.

const FONT = '12px system-ui, sans-serif';
const LANES = ['forward', 'backward', 'explore', 'paused'];
const WINDOW = 600; // s of phases that are shown

export class Series {
  // The same thinning as on the server: evenly spaced points, the last one always the newest.
  constructor(points, spacing, limit) {
    Object.assign(this, { points, spacing, limit });
  }

  add([x, y]) {
    const points = this.points;
    const last = points.at(-1);
    if (last && x <= last[0]) {
      last[1] = y;
      return;
    }
    if (points.length > 1 && x - points.at(-2)[0] < this.spacing) points.pop();
    points.push([x, y]);
    if (points.length > this.limit) {
      this.points = points.filter((_, i) => i % 2 === 0 || i === points.length - 1);
      this.spacing = (2 * (x - points[0][0])) / this.limit;
    }
  }

  get last() {
    return this.points.at(-1)?.[1];
  }
}

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function prepare(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const ratio = window.devicePixelRatio || 1;
  const pixels = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== pixels[0] || canvas.height !== pixels[1]) [canvas.width, canvas.height] = pixels;
  const context = canvas.getContext('2d');
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = FONT;
  return { context, width, height };
}

function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

export function short(number) {
  const size = Math.abs(number);
  if (size >= 1e6) return `${+(number / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(number / 1e3).toPrecision(3)}k`;
  return `${+number.toPrecision(3)}`;
}

function range(lines, fixed) {
  if (fixed) return fixed;
  const all = lines.flatMap((line) => line.points.map((point) => point[1]));
  let [low, high] = [Math.min(0, ...all), Math.max(0, ...all)];
  if (high === low) high = low + 1;
  const margin = 0.06 * (high - low);
  return [low < 0 ? low - margin : low, high + margin];
}

// Lines: { points, colour, dash }; levels: { y, colour, dash }, across the whole width.
export function drawCurves(canvas, lines, levels, end, fixed) {
  const { context, width, height } = prepare(canvas);
  if (!width) return;
  const [low, high] = range(lines, fixed);
  const marks = ticks(low, high, 4);
  const left = 8 + Math.max(...marks.map((mark) => context.measureText(short(mark)).width));
  const [right, top, bottom] = [10, 8, 34];
  const x = (value) => left + ((width - left - right) * value) / end;
  const y = (value) => top + ((height - top - bottom) * (high - value)) / (high - low);
  context.fillStyle = colour('faint');
  context.strokeStyle = colour('grid');
  context.lineWidth = 1;
  context.textBaseline = 'middle';
  context.textAlign = 'right';
  for (const mark of marks) {
    context.beginPath();
    context.moveTo(left, y(mark));
    context.lineTo(width - right, y(mark));
    context.stroke();
    context.fillText(short(mark), left - 5, y(mark));
  }
  context.textAlign = 'center';
  for (const mark of ticks(0, end, Math.max(2, Math.floor(width / 110)))) {
    const text = short(mark);
    const half = context.measureText(text).width / 2;
    context.fillText(text, Math.min(x(mark), width - half - 1), height - bottom + 11);
  }
  context.fillText('environment steps', left + (width - left - right) / 2, height - 8);
  context.lineWidth = 2;
  context.lineJoin = 'round';
  for (const line of [...levels.map((each) => ({ ...each, points: [[0, each.y], [end, each.y]] })), ...lines]) {
    context.strokeStyle = context.fillStyle = colour(line.colour);
    context.setLineDash(line.dash);
    context.beginPath();
    for (const point of line.points) context.lineTo(x(point[0]), y(point[1]));
    context.stroke();
    context.setLineDash([]);
    if (line.points.length > 60 || !line.dots) continue;
    for (const point of line.points) {
      context.beginPath();
      context.arc(x(point[0]), y(point[1]), 3, 0, 7);
      context.fill();
    }
  }
}

// Phases: [number, time, name] at their beginnings; successes: [number, time, how many].
// Returns how many seconds are shown.
export function drawPhases(canvas, phases, successes, now) {
  const { context, width, height } = prepare(canvas);
  const begin = Math.max(now - WINDOW, phases[0]?.[1] ?? now - 1);
  const span = Math.max(now - begin, 1);
  const used = LANES.filter((lane, i) => i < 2 || phases.some((phase) => phase[2] === lane));
  const [left, foot] = [74, 24];
  const lane = (height - foot) / used.length;
  const x = (time) => left + ((width - left - 8) * (Math.max(time, begin) - begin)) / span;
  context.textBaseline = 'middle';
  used.forEach((name, i) => {
    context.fillStyle = colour('grid');
    context.fillRect(left, i * lane + 3, width - left - 8, lane - 6);
    context.fillStyle = colour('text');
    context.fillText(name, 0, (i + 0.5) * lane);
  });
  phases.forEach(([, time, name], i) => {
    const end = phases[i + 1]?.[1] ?? now;
    const row = used.indexOf(name);
    if (end < begin || row < 0) return;
    context.fillStyle = colour(name === 'paused' ? 'faint' : name);
    context.fillRect(x(time), row * lane + 3, Math.max(x(end) - x(time) - 0.5, 1), lane - 6);
  });
  context.fillStyle = colour('success');
  context.fillText('success', 0, height - foot / 2);
  context.textAlign = 'center';
  let free = -Infinity;
  for (const [, time, count] of successes) {
    if (time < begin || x(time) < free) continue;
    context.font = 'bold 14px system-ui, sans-serif';
    context.fillText(count > 1 ? `\u2713${count}` : '\u2713', x(time), height - foot / 2);
    free = x(time) + (count > 1 ? 22 : 11);
  }
  context.textAlign = 'start';
  return span;
}
