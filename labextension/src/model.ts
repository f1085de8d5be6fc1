/** What a page knows of all sessions: one model, one socket, whoever shows it. */

import { ServerConnection } from '@jupyterlab/services';
import { IDisposable } from '@lumino/disposable';
import { ISignal, Signal } from '@lumino/signaling';

import { Api, ApiError } from './api';
import { ServerClock } from './clock';
import { Link, LinkOptions, LinkState } from './link';
import { Action, Cost, Frame, History, Plane, Quote, Receipt, RunOutputs, Session, Total } from './types';

/** Why nothing is shown: the server lacks our half, wants a login, or does not answer. */
export type Trouble = 'missing' | 'login' | 'server' | 'error' | null;

const SPARK = 60; // samples kept of each session's use
const TICK = 500; // milliseconds between two looks at the clock

export interface ModelOptions extends Partial<LinkOptions> {
  settings: ServerConnection.ISettings;
  local?: () => number;
}

export class Model implements IDisposable {
  constructor(options: ModelOptions) {
    this.api = new Api(options.settings);
    this.clock = new ServerClock(options.local);
    this._link = new Link({
      ...options,
      frame: frame => this._take(frame),
      state: state => this._linked(state)
    });
    this._timer = window.setInterval(() => this._tick(), TICK);
  }

  readonly api: Api;
  readonly clock: ServerClock;
  sessions: Session[] = [];
  total: Total | null = null;
  plane: Plane | null = null;
  link: LinkState = 'connecting';
  trouble: Trouble = null;
  starting = false;

  /** Something other than the time has changed. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Time has passed: amounts and countdowns that run are drawn anew. */
  get ticked(): ISignal<this, void> {
    return this._ticked;
  }

  /** Whether what is shown is of now, and something can be asked. */
  get fresh(): boolean {
    return this.link === 'live' && this.plane?.up === true;
  }

  /** What all sessions cost an hour now; the total follows its sessions a second later. */
  get rate(): number {
    const total = this.total;
    const alike = this.sessions.every(session => session.currency === total?.currency);
    const sum = this.sessions.reduce((rate, session) => rate + session.rate_nano_per_hour, 0);
    return alike && this.plane?.up ? sum : (total?.rate_nano_per_hour ?? 0);
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  dispose(): void {
    if (!this._disposed) {
      this._disposed = true;
      window.clearInterval(this._timer);
      this._link.dispose();
      Signal.clearData(this);
    }
  }

  find(name: string): Session | undefined {
    return this.sessions.find(session => session.name === name);
  }

  /** Return what was asked of a session and is not answered yet. */
  pending(name: string): Action | undefined {
    return this._pending.get(name);
  }

  /** Return why the last thing asked of a session was refused. */
  error(name: string): string {
    return this._errors.get(name) ?? '';
  }

  /** Return the use of a session's machine in percent, oldest first, and of what: GPU where there is one. */
  usage(name: string): { what: 'GPU' | 'CPU'; history: number[] } {
    return this._usage.get(name) ?? { what: 'CPU', history: [] };
  }

  forgive(name: string): void {
    this._errors.delete(name);
    this._changed.emit();
  }

  /** Ask something of a session; false if it was refused, which `error` then tells. */
  async act(name: string, action: Action, body: object = {}): Promise<boolean> {
    if (this._pending.has(name)) {
      return false;
    }
    this._pending.set(name, action);
    this._errors.delete(name);
    this._changed.emit();
    try {
      const view = await this.api.post<Session | null>(['sessions', name, action], { wait: false, ...body });
      this._answered(name, view);
      return true;
    } catch (error) {
      this._refused(name, error as ApiError);
      return false;
    } finally {
      this._pending.delete(name);
      this._changed.emit();
    }
  }

  /** Start the control plane. */
  async startPlane(): Promise<void> {
    if (this.starting) {
      return;
    }
    this.starting = true;
    this._changed.emit();
    try {
      await this.api.post(['plane', 'start']);
      this._link.retry();
    } catch (error) {
      this.plane = { up: false, error: (error as Error).message };
    } finally {
      this.starting = false;
      this._changed.emit();
    }
  }

  retry(): void {
    this._link.retry();
  }

  history(session: string, limit = 200): Promise<History> {
    return this.api.get<History>(['history'], { ...(session && { session }), limit: String(limit) });
  }

  async receipts(name: string): Promise<Receipt[]> {
    const found = await this.api.get<Receipt[] | { receipts: Receipt[] }>(['sessions', name, 'receipts']);
    return Array.isArray(found) ? found : found.receipts;
  }

  /** Ask what a cell would cost, by its code or one of its runs. */
  quote(asked: { code?: string; run?: string; cell_id?: string; session?: string }): Promise<Quote> {
    return this.api.post<Quote>(['quote'], asked);
  }

  outputs(name: string, run: string): Promise<RunOutputs> {
    return this.api.get<RunOutputs>(['sessions', name, 'runs', run, 'outputs']);
  }

  private _take(frame: Frame): void {
    switch (frame.type) {
      case 'snapshot':
        this.clock.hear(frame.now);
        this.plane = frame.plane;
        this.total = frame.total;
        this.sessions = [...frame.sessions].sort(byName);
        this.trouble = null;
        frame.sessions.forEach(session => this._sample(session));
        break;
      case 'session':
        this._put(frame.session);
        break;
      case 'gone':
        this._drop(frame.name);
        break;
      case 'total':
        this.total = frame.total;
        break;
      case 'plane':
        this.plane = frame.plane;
        break;
      case 'alive':
        this.clock.hear(frame.now);
        return;
      default:
        return; // of a newer server
    }
    this._changed.emit();
  }

  private _put(session: Session): void {
    this._sample(session);
    const others = this.sessions.filter(other => other.name !== session.name);
    this.sessions = [...others, session].sort(byName);
  }

  private _drop(name: string): void {
    this.sessions = this.sessions.filter(session => session.name !== name);
    this._usage.delete(name);
    this._errors.delete(name);
  }

  private _answered(name: string, view: Session | null): void {
    const known = this.find(name);
    // the stream may have told something newer already
    if (view?.name === name && known && view.as_of >= known.as_of) {
      this._put(view);
    }
  }

  private _refused(name: string, error: ApiError): void {
    if (error.type === 'UnknownSession') {
      this._drop(name);
    } else {
      this._errors.set(name, error.message);
    }
  }

  private _sample(session: Session): void {
    if (session.state !== 'running') {
      this._usage.delete(session.name);
      return;
    }
    const gpus = session.usage?.gpus ?? [];
    const what = gpus.length > 0 ? 'GPU' : 'CPU';
    const now =
      gpus.length > 0 ? Math.max(...gpus.map(gpu => gpu.utilization_percent)) : session.usage?.cpu_percent;
    const known = this._usage.get(session.name);
    const told = session.usage_history?.[what === 'GPU' ? 'gpu' : 'cpu'];
    let history = known?.what === what ? known.history : [];
    if (told && told.length > 0) {
      history = told.filter((value): value is number => typeof value === 'number');
    } else if (typeof now === 'number') {
      history = [...history, now];
    }
    this._usage.set(session.name, { what, history: history.slice(-SPARK) });
  }

  private _linked(state: LinkState): void {
    this.link = state;
    if (state === 'lost' || state === 'stale') {
      void this._explain();
    }
    this._changed.emit();
  }

  /** Ask by a plain call why the stream is away; where sockets are blocked its answer is the news. */
  private async _explain(): Promise<void> {
    try {
      const frame = await this.api.get<Frame>(['snapshot']);
      if (!this._disposed && this.link !== 'live') {
        this._take({ ...frame, type: 'snapshot' } as Frame);
      }
    } catch (error) {
      const status = (error as ApiError).status;
      this.trouble =
        status === 404
          ? 'missing'
          : status === 401 || status === 403
            ? 'login'
            : status === 0
              ? 'server'
              : 'error';
      this._changed.emit();
    }
  }

  private _tick(): void {
    if (!document.hidden) {
      this._ticked.emit();
    }
  }

  private _changed = new Signal<this, void>(this);
  private _ticked = new Signal<this, void>(this);
  private _pending = new Map<string, Action>();
  private _errors = new Map<string, string>();
  private _usage = new Map<string, { what: 'GPU' | 'CPU'; history: number[] }>();
  private _link: Link;
  private _timer: number;
  private _disposed = false;
}

function byName(a: Session, b: Session): number {
  const [dead, alive] = [Number(a.state === 'closed'), Number(b.state === 'closed')];
  return dead - alive || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
}

/** Return the nano-units an hour that are due now: the machine's, and the storage of the checkpoints. */
export function flow(view: Cost): number {
  return view.rate_nano_per_hour + (view.storage_nano_per_hour ?? 0);
}

/** Return the nano-units spent at unix time `now`, extrapolated from the last fact. */
export function spentAt(view: Cost, now: number): number {
  return view.spent_nano + (flow(view) * Math.max(0, now - view.as_of)) / 3600;
}

/** Return what makes sense to ask of a session as it is; the first is what one click does. */
export function possible(session: Session): Action[] {
  switch (session.state) {
    case 'running':
      return session.pause_pending && !session.pause
        ? ['release', 'close']
        : ['pause', 'release', 'close', 'keep'];
    case 'requested':
    case 'starting':
      return ['release', 'close'];
    case 'paused':
    case 'failed':
      return ['resume', 'close'];
    default:
      return [];
  }
}
