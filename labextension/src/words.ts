/** States and steps in words. */

import { TranslationBundle } from '@jupyterlab/translation';

import { clock, money, moment, percent, span } from './format';
import { Advice, Budget, Run, Session } from './types';

/** How to write: the language of words, and the locale of numbers and times. */
export interface Tongue {
  trans: TranslationBundle;
  locale: string;
}

export type Tone = 'on' | 'off' | 'mid' | 'bad';

export function toneOf(session: Session): Tone {
  switch (session.state) {
    case 'running':
      return session.pause_pending ? 'mid' : 'on';
    case 'paused':
    case 'closed':
      return 'off';
    case 'failed':
      return 'bad';
    default:
      return 'mid';
  }
}

/** Return a session's state: `Running`, `Pausing at the next loop turn`, `Saving 40%`. */
export function stateText(session: Session, { trans, locale }: Tongue): string {
  const step = stepText(session, { trans, locale });
  if (step) {
    return step;
  }
  const names: Record<string, string> = {
    requested: trans.__('Requesting a machine'),
    starting: trans.__('Starting'),
    running: session.busy ? trans.__('Cell running') : trans.__('Ready'),
    saving: trans.__('Saving'),
    stopping: trans.__('Releasing'),
    paused: trans.__('Paused'),
    failed: trans.__('Failed'),
    closed: trans.__('Closed')
  };
  return names[session.state] ?? session.state;
}

/** Return what is under way of a pause: `Saving 40%`, `Verifying`, `Releasing`; nothing when none is. */
export function stepText(session: Session, { trans, locale }: Tongue): string {
  if (session.state === 'running' && session.pause_pending) {
    return session.busy ? trans.__('Pausing at the next loop turn') : trans.__('Pausing');
  }
  if (session.state !== 'saving' && session.state !== 'stopping') {
    return '';
  }
  const progress = session.progress;
  switch (progress?.step) {
    case 'saving':
      return typeof progress.fraction === 'number'
        ? trans.__('Saving %1', percent(progress.fraction, locale))
        : trans.__('Saving');
    case 'verifying':
      return trans.__('Verifying');
    case 'releasing':
      return trans.__('Releasing');
    default:
      return session.state === 'saving' ? trans.__('Saving') : trans.__('Releasing');
  }
}

/** Return when billing stopped and what that machine had cost: `stopped at 12:03:07, $0.0132`. */
export function stoppedText(session: Session, now: number, { trans, locale }: Tongue): string {
  const { stopped_at: at, last_cost_nano: cost } = session.progress ?? {};
  if (typeof at !== 'number' || session.state !== 'paused') {
    return '';
  }
  const when = moment(at, now, locale);
  return typeof cost === 'number'
    ? trans.__('stopped at %1, %2', when, money(cost, session.currency, locale))
    : trans.__('stopped at %1', when);
}

/** Return what goes on, or is about to: the run's time, the idle countdown with its reason, what is saved. */
export function lineText(session: Session, now: number, tongue: Tongue): string {
  const { trans, locale } = tongue;
  if (session.state === 'running') {
    return session.busy ? runText(session, now, tongue) : idleText(session, now, tongue);
  }
  const saved = session.checkpoint;
  if (session.state === 'paused' || session.state === 'closed' || session.state === 'failed') {
    const stopped = stoppedText(session, now, tongue);
    const where = session.suspended?.where ? trans.__('paused at %1', session.suspended.where) : '';
    const size = saved ? trans.__('%1 saved', sizeText(saved.bytes, locale)) : '';
    return [stopped, where, size].filter(Boolean).join(' · ');
  }
  return '';
}

/** Return the budgets to draw: a session's own always, those that all share while it spends of them or is told of them. */
export function shownBudgets(session: Session): Budget[] {
  const own = (budget: Budget) => budget.scope === 'run' || budget.scope === 'session';
  return (session.budgets ?? []).filter(
    budget => own(budget) || session.rate_nano_per_hour > 0 || budget.mark > 0
  );
}

/** Return what a budget is for. */
export function budgetName(budget: Budget, { trans }: Tongue): string {
  const names: Record<string, string> = {
    run: trans.__('This cell'),
    session: trans.__('This session'),
    day: trans.__('Today'),
    month: trans.__('This month'),
    user: trans.__('All sessions')
  };
  return names[budget.scope] ?? budget.scope.slice(0, 40);
}

function sizeText(count: number, locale: string): string {
  const [size, unit] = count >= 1e9 ? [1e9, 'GB'] : count >= 1e6 ? [1e6, 'MB'] : [1e3, 'kB'];
  return `${(count / size).toLocaleString(locale, { maximumFractionDigits: 1 })} ${unit}`;
}

function runText(session: Session, now: number, { trans, locale }: Tongue): string {
  const parts: string[] = [];
  if (typeof session.run_started_at === 'number') {
    parts.push(trans.__('for %1', clock(now - session.run_started_at)));
  }
  if (typeof session.forecast?.ends_at === 'number') {
    parts.push(trans.__('about %1 left', span(coarse(session.forecast.ends_at - now), locale)));
  }
  if (session.queued) {
    parts.push(trans.__('%1 more waiting', session.queued));
  }
  return parts.join(' · ');
}

/** Return a time left no finer than it is known. */
function coarse(seconds: number): number {
  const unit = seconds < 90 ? 10 : 60;
  return unit * Math.max(1, Math.round(seconds / unit));
}

const UNSAID = 15; // seconds of a run before it is said why it has no forecast

/** Return what the cell under way will have cost: `Forecast $0.42 (0.40 to 0.47)`; or, after a while, why not. */
export function forecastText(session: Session, now: number, { trans, locale }: Tongue): string {
  const told = session.forecast;
  if (!told || !session.busy || session.state !== 'running') {
    return '';
  }
  const [total, low, high] = [told.total_nano, told.low_nano, told.high_nano];
  if (typeof total !== 'number' || typeof low !== 'number' || typeof high !== 'number') {
    const late = now - (session.run_started_at ?? now) >= UNSAID;
    return told.why && late ? trans.__('No forecast: %1', told.why) : '';
  }
  const size = Math.max(total, high);
  const places = size >= 1e8 ? 2 : size >= 1e6 ? 4 : undefined;
  const [sum, least, most] = [total, low, high].map(nano => money(nano, session.currency, locale, places));
  const text = trans.__('Forecast %1 (%2 to %3)', sum, least, most);
  return told.follow ? `${text}, ${trans.__('without the loops that follow')}` : text;
}

/** Return the warning that the budget will not do. */
export function budgetText(session: Session, { trans, locale }: Tongue): string {
  const seconds = session.busy ? session.forecast?.budget_seconds : null;
  return typeof seconds === 'number'
    ? trans.__('Will reach the budget in about %1', span(coarse(seconds), locale))
    : '';
}

function idleText(session: Session, now: number, { trans, locale }: Tongue): string {
  if (typeof session.kept_until === 'number' && session.kept_until > now) {
    return trans.__('Kept until %1', moment(session.kept_until, now, locale));
  }
  const release = session.idle?.release_at;
  return typeof release === 'number'
    ? trans.__('Idle; saved and released in %1', clock(release - now))
    : trans.__('No release foreseen');
}

/** Return why a session that runs no cell is kept or let go. */
export function reasonText(session: Session): string {
  const reason = session.state === 'running' && !session.busy ? (session.idle?.reason ?? '') : '';
  return reason.replace(/ [0-9a-f]{32}\b/, ''); // a run's id tells people nothing
}

/** Return what could have cost less, and how much: `Could cost less: pauses not used, $0.12`. */
export function adviceText(advice: Advice, currency: string, { trans, locale }: Tongue): string {
  const kinds: Record<string, string> = {
    'gpu waits for data': trans.__('the GPU waits for data'),
    'batch too small': trans.__('batch too small'),
    'fp32 where bf16 would do': trans.__('fp32 where bf16 would do'),
    'machine too large': trans.__('machine too large'),
    'cheaper offer': trans.__('cheaper offer'),
    'pauses not used': trans.__('pauses not used'),
    'checkpoint interval': trans.__('checkpoint interval')
  };
  const kind = kinds[advice.kind] ?? advice.kind;
  const amount = money(advice.saves_nano, currency, locale);
  switch (advice.sure) {
    case 'exact':
      return trans.__('Could cost less: %1, %2', kind, amount);
    case 'about':
      return trans.__('Could cost less: %1, about %2', kind, amount);
    default:
      return trans.__('Could cost less: %1, at most %2', kind, amount);
  }
}

/** Return when a run began; one that waits is newer than all. */
export function begun(run: Run): number {
  return run.started_at ?? Infinity;
}

/** Return the newest run of each cell. */
export function newestRuns(runs: readonly Run[]): Map<string, Run> {
  const found = new Map<string, Run>();
  for (const run of runs) {
    const known = run.cell_id === null ? undefined : found.get(run.cell_id);
    if (run.cell_id !== null && (known === undefined || begun(run) >= begun(known))) {
      found.set(run.cell_id, run);
    }
  }
  return found;
}
