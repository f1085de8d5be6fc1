/** What the server sends: money in integer nano-units of a currency, times in unix seconds. */

export interface Cost {
  currency: string;
  rate_nano_per_hour: number;
  storage_nano_per_hour?: number;
  spent_nano: number;
  unspent_nano?: number;
  billed_seconds?: number;
  unbilled_seconds?: number;
  as_of: number;
}

export interface Progress {
  step: 'saving' | 'verifying' | 'releasing' | 'stopped' | null;
  fraction: number | null;
  stopped_at: number | null;
  last_cost_nano: number | null;
}

export interface Run {
  run: string;
  cell_id: string | null;
  state: string;
  started_at: number | null;
  ended_at: number | null;
}

export interface Usage {
  cpu_percent?: number | null;
  gpus?: { utilization_percent: number }[];
}

export interface Idle {
  verdict: string;
  release_at: number | null;
  reason: string;
}

/** What the cell under way will have cost, or why that is not known; `budget_seconds`: the budget is reached before. */
export interface Forecast {
  fraction: number | null;
  ends_at: number | null;
  why?: string | null;
  total_nano?: number;
  low_nano?: number;
  high_nano?: number;
  follow?: number;
  budget_seconds?: number | null;
}

/** One budget: what is spent of it by `as_of` of what it came with, and how fast. */
export interface Budget {
  key: string;
  scope: string;
  budget_nano: number;
  spent_nano: number;
  rate_nano_per_hour: number;
  /** The highest of 50, 80 and 100 % that is passed, 0 for none; 100 from when saving begins. */
  mark: number;
}

export interface Session extends Cost {
  name: string;
  id?: string;
  state: string;
  text?: string;
  instance: string;
  provider?: string;
  machine?: string | null;
  /** All that count here, the tightest first. */
  budgets?: Budget[];
  busy?: boolean;
  run?: string | null;
  run_started_at?: number | null;
  queued?: number;
  pause_pending?: boolean;
  pause?: { waiting_seconds: number; lose_seconds: number; lose_nano: number; skipped?: string[] } | null;
  suspended?: { run: string; cell_id: string | null; where?: string } | null;
  usage?: Usage | null;
  usage_history?: UsageHistory | null;
  idle?: Idle | null;
  kept_until?: number | null;
  checkpoint?: { at: number | null; bytes: number; placeholders?: unknown[] | number } | null;
  step?: string | null;
  message?: string | null;
  last_seq?: number;
  progress?: Progress | null;
  forecast?: Forecast | null;
  runs?: Run[];
}

/** CPU (percent of one core) and GPU (percent of time, null without one), oldest first. */
export interface UsageHistory {
  cpu: (number | null)[];
  gpu?: (number | null)[] | null;
}

export interface Total {
  currency: string;
  rate_nano_per_hour: number;
  always_on_rate_nano_per_hour?: number;
  today_nano: number;
  month_nano: number;
  today_always_on_nano: number;
  month_always_on_nano: number;
  budget_nano?: number | null;
  as_of: number;
}

export interface Plane {
  up: boolean;
  version?: string | null;
  error?: string | null;
}

export type Frame =
  | { type: 'snapshot'; version: number; plane: Plane; sessions: Session[]; total: Total | null; now: number }
  | { type: 'session'; session: Session }
  | { type: 'gone'; name: string }
  | { type: 'total'; total: Total }
  | { type: 'plane'; plane: Plane }
  | { type: 'alive'; now: number };

export interface HistoryRow {
  kind: 'run' | 'pause';
  session: string;
  at: number;
  ended: number | null;
  seconds: number | null;
  billed_seconds: number | null;
  cost_nano: number | null;
  currency: string;
  text: string;
  cell_id?: string | null;
  run?: string | null;
  machine?: string | null;
  reason?: string | null;
}

export interface Day {
  day: string;
  spent_nano: number;
  always_on_nano: number;
}

export interface History {
  rows: HistoryRow[];
  days: Day[];
  currency: string;
}

/** One machine type of a quote; `[least, median, most]` where an amount or a time was seen more than once. */
export interface QuotedMachine {
  instance: string;
  currency: string;
  offered: boolean;
  price_nano_per_hour: number | null;
  runs: number;
  billed_nano: number[] | null;
  seconds: number[] | null;
  like: string | null;
  runs_now: boolean;
  start_seconds: number | null;
  cost_nano: number[] | null;
  hour_nano: number | null;
}

export interface Quote {
  text: string;
  edited: boolean;
  whole: number;
  paused_on_the_way: number;
  others: Record<string, number>;
  machines: QuotedMachine[];
  unasked: string[];
}

export interface Receipt {
  at: number;
  reason?: string;
  currency: string;
  machine?: string;
  segment_seconds: number;
  segment_nano: number;
  billed_seconds: number;
  spent_nano: number;
  storage_nano?: number;
  unbilled_seconds: number;
  unspent_nano: number;
  estimated?: boolean;
  checkpoint?: { bytes: number; names?: string[]; placeholders?: unknown[] } | null;
  advice?: Advice[];
}

/** What could have cost less; `sure` is exact, about or at most. */
export interface Advice {
  kind: string;
  saves_nano: number;
  sure: string;
}

/** One output of a notebook cell, as nbformat 4 has it. */
export interface Output {
  output_type: string;
  [field: string]: any;
}

export interface RunOutputs {
  run: string;
  cell_id: string | null;
  state: string;
  last_seq: number;
  outputs: Output[];
  execution_count: number | null;
}

export type Action = 'pause' | 'resume' | 'release' | 'close' | 'keep' | 'interrupt';
