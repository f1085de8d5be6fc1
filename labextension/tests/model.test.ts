// @vitest-environment jsdom
import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { Model, possible, spentAt } from '../src/model';
import { Answer, session, settings, snapshot, Socket } from './server';

let model: Model;
let hidden: boolean;

function make(answer?: Answer, local?: () => number): Model {
  model = new Model({
    settings: settings(answer),
    random: () => 1,
    hidden: () => hidden,
    ...(local && { local })
  });
  return model;
}

function look(hide: boolean): void {
  hidden = hide;
  document.dispatchEvent(new Event('visibilitychange'));
}

beforeEach(() => {
  vi.useFakeTimers();
  Socket.all = [];
  hidden = false;
});

afterEach(() => {
  model.dispose();
  vi.useRealTimers();
});

test('the line goes to the base url with its token', () => {
  make();
  expect(Socket.last.url).toBe('ws://localhost/user/alice/ciuic/watch?token=t%261');
});

test('a snapshot replaces all, deltas change one', () => {
  make();
  Socket.last.say(
    snapshot([session({ name: 'b' }), session({ name: 'a' }), session({ name: '0', state: 'closed' })])
  );
  expect(model.sessions.map(found => found.name)).toEqual(['a', 'b', '0']);
  expect(model.link).toBe('live');
  Socket.last.say({ type: 'session', session: session({ name: 'c', state: 'paused' }) });
  Socket.last.say({ type: 'gone', name: 'a' });
  Socket.last.say({ type: 'of a newer server' });
  expect(model.sessions.map(found => found.name)).toEqual(['b', 'c', '0']);
  Socket.last.say(snapshot([]));
  expect(model.sessions).toEqual([]);
});

test('the amount runs on by the clock of the server, whatever the browser thinks the time is', () => {
  let local = 1000 + 3600; // an hour ahead
  make(undefined, () => local);
  Socket.last.say(snapshot([session()], 1010));
  expect(spentAt(model.sessions[0], model.clock.now())).toBeCloseTo(1_010_000_000, 0);
  local += 5;
  expect(spentAt(model.sessions[0], model.clock.now())).toBeCloseTo(1_015_000_000, 0);
  local -= 7200; // the browser's clock is put right, and too far
  Socket.last.say({ type: 'alive', now: 1015 });
  expect(model.clock.now()).toBeCloseTo(1015);
});

test('an amount never runs backwards past its fact', () => {
  expect(spentAt(session(), 10)).toBe(1_000_000_000);
});

test('a line that breaks is opened again, later each time, and a late word of the old one is not heard', async () => {
  make(() => [500, null]);
  Socket.last.say(snapshot([session({ name: 'a' })]));
  const old = Socket.last;
  const late = old.onmessage;
  old.drop();
  expect(model.link).toBe('lost');
  expect(model.sessions.length).toBe(1);
  const waits: number[] = [];
  for (const wait of [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]) {
    const count = Socket.all.length;
    await vi.advanceTimersByTimeAsync(wait - 1);
    expect(Socket.all.length).toBe(count);
    await vi.advanceTimersByTimeAsync(1);
    expect(Socket.all.length).toBe(count + 1);
    waits.push(wait);
    Socket.last.drop();
  }
  late?.({ data: JSON.stringify(snapshot([])) });
  expect(model.sessions.length).toBe(1);
  await vi.advanceTimersByTimeAsync(30000);
  Socket.last.say(snapshot([]));
  expect(model.link).toBe('live');
  Socket.last.drop();
  const count = Socket.all.length;
  await vi.advanceTimersByTimeAsync(500); // a line that worked starts anew
  expect(Socket.all.length).toBe(count + 1);
});

test('a silent line is called stale, then given up', async () => {
  make(() => [500, null]);
  Socket.last.say(snapshot([]));
  await vi.advanceTimersByTimeAsync(24_000);
  Socket.last.say({ type: 'alive', now: 1024 });
  await vi.advanceTimersByTimeAsync(24_000);
  expect(model.link).toBe('live');
  await vi.advanceTimersByTimeAsync(1_000);
  expect([model.link, model.fresh]).toEqual(['stale', false]);
  const silent = Socket.last;
  await vi.advanceTimersByTimeAsync(25_500);
  expect(silent.closed).toBe(true);
  expect(Socket.last).not.toBe(silent);
});

test('a hidden page closes its line, a glance elsewhere does not', async () => {
  make();
  Socket.last.say(snapshot([]));
  look(true);
  await vi.advanceTimersByTimeAsync(3_000);
  look(false);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(Socket.all.length).toBe(1);
  look(true);
  await vi.advanceTimersByTimeAsync(60_000);
  expect([Socket.all.length, Socket.last.closed, model.link]).toEqual([1, true, 'hidden']);
  look(false);
  expect(Socket.all.length).toBe(2);
});

test.each([
  [404, 'missing'],
  [403, 'login'],
  [502, 'error']
])('a line that fails says why: %d is %s', async (status, trouble) => {
  make(() => [status, null]);
  Socket.last.drop();
  await vi.advanceTimersByTimeAsync(10);
  expect(model.trouble).toBe(trouble);
});

test('where sockets are blocked a plain call brings the news', async () => {
  make(path => (path.includes('/ciuic/snapshot') ? [200, snapshot([session()])] : [404, null]));
  Socket.last.drop();
  await vi.advanceTimersByTimeAsync(10);
  expect([model.trouble, model.sessions.length]).toEqual([null, 1]);
});

test('an action goes to its session by its own name, and the answer is shown at once', async () => {
  const asked: string[] = [];
  const name = '<b>a/b?ü';
  make((path, init) => {
    asked.push(`${init.method} ${path.split('?')[0]}`);
    return [200, session({ name, state: 'saving', as_of: 1001 })];
  });
  Socket.last.say(snapshot([session({ name })]));
  const acting = model.act(name, 'pause');
  expect(model.pending(name)).toBe('pause');
  expect(await model.act(name, 'pause')).toBe(false); // a second press does nothing
  expect(await acting).toBe(true);
  expect(model.pending(name)).toBeUndefined();
  expect(model.find(name)?.state).toBe('saving');
  expect(asked).toEqual([`POST /user/alice/ciuic/sessions/${encodeURIComponent(name)}/pause`]);
});

test('an answer older than what the stream told is not shown', async () => {
  make(() => [200, session({ state: 'saving', as_of: 1001 })]);
  Socket.last.say(snapshot([session()]));
  const acting = model.act('s', 'pause');
  Socket.last.say({ type: 'session', session: session({ state: 'paused', as_of: 1002 }) });
  await acting;
  expect(model.find('s')?.state).toBe('paused');
});

test('a refusal is told beside its session; one that vanished goes', async () => {
  let error = { type: 'BudgetExceeded', message: 'the budget is spent' };
  make(() => [409, { error }]);
  Socket.last.say(snapshot([session({ state: 'paused' })]));
  expect(await model.act('s', 'resume')).toBe(false);
  expect(model.error('s')).toBe('the budget is spent');
  model.forgive('s');
  expect(model.error('s')).toBe('');
  error = { type: 'UnknownSession', message: 'no session s' };
  expect(await model.act('s', 'resume')).toBe(false);
  expect(model.sessions).toEqual([]);
});

test('usage is kept while the machine runs, of the GPU where there is one', () => {
  make();
  Socket.last.say(snapshot([session({ usage: { cpu_percent: 10 } })]));
  Socket.last.say({ type: 'session', session: session({ usage: { cpu_percent: 30, gpus: [] } }) });
  expect(model.usage('s')).toEqual({ what: 'CPU', history: [10, 30] });
  const gpus = [{ utilization_percent: 80 }, { utilization_percent: 95 }];
  Socket.last.say({ type: 'session', session: session({ usage: { cpu_percent: 30, gpus } }) });
  expect(model.usage('s')).toEqual({ what: 'GPU', history: [95] });
  Socket.last.say({ type: 'session', session: session({ state: 'paused' }) });
  expect(model.usage('s').history).toEqual([]);
});

test('what can be asked follows the state', () => {
  expect(possible(session())[0]).toBe('pause');
  expect(possible(session({ pause_pending: true }))).not.toContain('pause');
  expect(possible(session({ state: 'paused' }))[0]).toBe('resume');
  expect(possible(session({ state: 'saving' }))).toEqual([]);
});
