// Shows what the server sends, once a second; keeps no more than it shows.

import { Series, colour, drawCurves, drawPhases, short } from './charts.js';

const SILENCE = 5000; // ms without an update after which the connection counts as lost
const RETRY = 2000; // ms between two attempts to connect
const PHASES = 400;
const LINES = 100;
const NEXT_PICTURE = 250; // ms
const COMMAND_TIMEOUT = 8000; // ms
const get = (id) => document.getElementById(id);

// Title, curves, unit range; a curve: name, colour, dash.
const CHARTS = [
  ['Success rate', [0, 1], [
    ['deployed', 'forward', [], 'deployed'],
    ['practice', 'backward', [2, 4], 'practice, last 20 attempts'],
  ]],
  ['Classifier score of the current state', [0, 1], [['score', 'explore', [], 'score']]],
  ['Model error, worst entry', null, [['model error', 'backward', [], 'held-out error']]],
  ['Values', null, [
    ['forward value', 'forward', [], 'forward'],
    ['backward value', 'backward', [8, 4], 'backward'],
  ]],
  ['Updates per second', null, [['updates', 'success', [], 'updates/s']]],
];

const state = { curves: {}, phases: [], successes: [], levels: [], newest: 0, steps: 0, ahead: 0, limit: 600 };
const charts = [];
let heard = 0;
let source = null;
let drawing = false;
let ended = false;

function element(name, text = '', className = '') {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

// --- updates ------------------------------------------------------------------------------------

function showEverything(data) {
  state.limit = data.limit;
  state.curves = {};
  for (const [name, curve] of Object.entries(data.curves)) {
    state.curves[name] = new Series(curve.points, curve.spacing, data.limit);
  }
  state.phases = [];
  state.successes = [];
  state.newest = 0;
  get('log').replaceChildren();
  get('title').textContent = data.title;
  document.title = `mbarl ${data.title}`;
  showCommands(data.commands);
  show(data);
}

function showUpdate(data) {
  for (const [name, point] of Object.entries(data.points)) {
    state.curves[name] ??= new Series([], 0, state.limit);
    state.curves[name].add(point);
  }
  show(data);
}

function show(data) {
  heard = performance.now() - 1000 * data.age;
  ended = false;
  setConnection(1000 * data.age < SILENCE);
  showRows(data.rows);
  showProblems(data.problems);
  get('budget').hidden = !data.budget;
  get('progress').max = data.budget || 1;
  get('progress').value = data.steps ?? 0;
  get('share').textContent = `${Math.floor((100 * (data.steps ?? 0)) / (data.budget || 1))} %`;
  state.steps = data.steps ?? state.steps;
  state.ahead = data.time - Date.now() / 1000; // of this browser's clock
  state.levels = [];
  if (data.clone !== null) state.levels.push({ y: data.clone, colour: 'target', dash: [7, 4], label: 'clone' });
  if (data.target) state.levels.push({ y: data.target, colour: 'success', dash: [1, 5], label: 'target' });
  const [phases, successes, lines] = [data.phases, data.successes, data.log].map(fresh);
  state.newest = Math.max(state.newest, ...[...phases, ...successes, ...lines].map(([number]) => number));
  state.phases = [...state.phases, ...phases].slice(-PHASES);
  state.successes = [...state.successes, ...successes].slice(-PHASES);
  showLog(lines);
  enableCommands(data.gate, data.lifecycle);
  redraw();
}

// The first update after everything has, again, what came since the update before it.
function fresh(items) {
  return items.filter(([number]) => number > state.newest);
}

function showRows(rows) {
  const list = get('rows');
  while (list.children.length > 2 * rows.length) list.lastChild.remove();
  while (list.children.length < 2 * rows.length) list.append(element('dt'), element('dd'));
  rows.flat().forEach((text, i) => setText(list.children[i], text));
}

function showProblems(problems) {
  const list = get('problems');
  while (list.children.length > problems.length) list.lastChild.remove();
  while (list.children.length < problems.length) list.append(element('li'));
  problems.forEach(([text, isError], i) => {
    setText(list.children[i], text);
    list.children[i].className = isError ? 'error' : 'warning';
  });
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function showLog(lines) {
  const log = get('log');
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  for (const [, time, level, node, text] of lines) {
    const line = element('li', '', level);
    line.append(element('time', new Date(1000 * time).toLocaleTimeString('en-GB')), element('b', node), text);
    log.append(line);
  }
  while (log.children.length > LINES) log.firstChild.remove();
  get('logs').hidden = !log.children.length;
  if (atEnd && lines.length) log.scrollTop = log.scrollHeight;
}

// --- drawing ------------------------------------------------------------------------------------

function redraw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const now = Date.now() / 1000 + state.ahead;
    get('timeline').hidden = !state.phases.length;
    if (state.phases.length) {
      const span = drawPhases(get('phases'), state.phases, state.successes, now);
      setText(get('span'), span < 90 ? `last ${Math.round(span)} s` : `last ${Math.round(span / 60)} min`);
    }
    get('curves').hidden = !Object.keys(state.curves).length;
    CHARTS.forEach(([title, fixed, curves], i) => drawChart(i, title, fixed, curves));
  });
}

function drawChart(index, title, fixed, curves) {
  const shown = curves.filter(([name]) => state.curves[name]?.points.length);
  const levels = index === 0 ? state.levels : [];
  charts[index] ??= makeChart(title);
  const { figure, caption, canvas } = charts[index];
  figure.hidden = !shown.length;
  if (!shown.length) return;
  const lines = shown.map(([name, tint, dash, label]) => (
    { points: state.curves[name].points, colour: tint, dash, label, dots: name === 'deployed' }));
  const entries = [...lines.map((line) => ({ ...line, y: line.points.at(-1)[1] })), ...levels];
  for (const entry of entries) entry.text = `${entry.label} ${fixed ? entry.y.toFixed(2) : short(entry.y)}`;
  showLegend(caption, entries);
  const words = entries.map((entry) => entry.text).join(', ');
  canvas.setAttribute('aria-label', `${title} over environment steps: ${words}`);
  drawCurves(canvas, lines, levels, Math.max(state.steps, 1), fixed);
}

function makeChart(title) {
  const figure = element('figure');
  const caption = element('figcaption');
  const canvas = element('canvas');
  canvas.setAttribute('role', 'img');
  caption.append(element('b', title));
  figure.append(caption, canvas);
  get('curves').append(figure);
  return { figure, caption, canvas };
}

function showLegend(caption, entries) {
  const spans = [...caption.children].slice(1);
  for (let i = entries.length; i < spans.length; i++) spans[i].remove();
  entries.forEach((entry, i) => {
    const span = spans[i] ?? caption.appendChild(legendEntry());
    const line = span.querySelector('line');
    line.setAttribute('stroke', colour(entry.colour));
    line.setAttribute('stroke-dasharray', entry.dash.join(' '));
    setText(span.lastChild, entry.text);
  });
}

function legendEntry() {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const line = document.createElementNS('http://www.w3.org/2000/svg', 'line');
  for (const [name, value] of Object.entries({ x1: 0, x2: 26, y1: 5, y2: 5, 'stroke-width': 3 })) {
    line.setAttribute(name, value);
  }
  svg.append(line);
  const span = element('span');
  span.append(svg, element('span'));
  return span;
}

// --- connection ---------------------------------------------------------------------------------

function connect() {
  heard = performance.now();
  source = new EventSource('events');
  source.addEventListener('everything', (event) => showEverything(JSON.parse(event.data)));
  source.addEventListener('update', (event) => showUpdate(JSON.parse(event.data)));
  source.addEventListener('end', () => {
    ended = true;
    lose();
  });
  source.onerror = lose;
}

function lose() {
  source?.close();
  source = null;
  setConnection(false);
}

function setConnection(live) {
  const text = live ? 'live' : ended ? 'ended' : 'connection lost';
  setText(get('connection'), text);
  get('connection').className = live ? 'live' : '';
  document.body.className = live ? '' : 'stale';
  get('lost').hidden = live;
  setText(get('lost'), ended
    ? 'The run has ended, or its page has been stopped. What you see is its last state.'
    : 'Connection lost: what you see is old. Trying again until the page answers.');
}

// Also where the connection breaks without a word.
setInterval(() => {
  if (source && performance.now() - heard < SILENCE) return;
  lose();
  connect();
}, RETRY);

// --- camera -------------------------------------------------------------------------------------

async function showPictures() {
  let number = '';
  for (;;) {
    try {
      const answer = !document.hidden && source ? await fetch(`picture?after=${number}`) : null;
      if (answer?.status === 200) {
        number = answer.headers.get('X-Picture');
        await showPicture(await answer.blob());
      }
    } catch {
      number = ''; // the connection is lost; the banner says so
    }
    await new Promise((resolve) => setTimeout(resolve, NEXT_PICTURE));
  }
}

async function showPicture(blob) {
  const bitmap = await createImageBitmap(blob);
  const canvas = get('picture');
  if (canvas.width !== bitmap.width) canvas.width = bitmap.width;
  if (canvas.height !== bitmap.height) canvas.height = bitmap.height;
  canvas.getContext('2d').drawImage(bitmap, 0, 0);
  bitmap.close();
  get('camera').hidden = false;
}

// --- commands -----------------------------------------------------------------------------------

const buttons = [...document.querySelectorAll('[data-command]')];

function showCommands(names) {
  get('commands').hidden = !names.length;
  for (const button of buttons) button.hidden = !names.includes(button.dataset.command);
}

// The e-stop is never disabled.
function enableCommands(gate, lifecycle) {
  const stopped = gate === 'e-stop';
  const may = { release: stopped, pause: lifecycle === 'active', resume: lifecycle !== 'active', turn: !stopped && lifecycle === 'active' };
  for (const button of buttons) button.disabled = may[button.dataset.command] === false;
}

function confirmed(question) {
  const dialog = get('confirm');
  get('question').textContent = question;
  dialog.returnValue = ''; // Escape leaves that of the last time
  dialog.showModal();
  get('no').focus();
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(dialog.returnValue === 'yes');
  });
}

get('yes').onclick = () => get('confirm').close('yes');
get('no').onclick = () => get('confirm').close('no');

async function command(name, label) {
  say(`${label} ...`, true);
  try {
    const answer = await fetch(`command/${name}`, { method: 'POST', signal: AbortSignal.timeout(COMMAND_TIMEOUT) });
    const { done, message } = await answer.json();
    say(`${label}: ${message}`, done);
  } catch {
    say(`${label}: no answer from the page's server; use the e-stop of the robot`, false);
  }
}

function say(text, good) {
  get('answer').textContent = text;
  get('answer').className = good ? '' : 'bad';
}

for (const button of buttons) {
  button.onclick = async () => {
    const question = button.dataset.question;
    if (!question || (await confirmed(question))) command(button.dataset.command, button.textContent);
  };
}

window.addEventListener('resize', redraw);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
connect();
showPictures();
