/** One WebSocket to the server: opened again with backoff, closed while nobody looks, watched for silence. */

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

import { Frame } from './types';

export type LinkState = 'connecting' | 'live' | 'stale' | 'lost' | 'hidden';

export interface LinkOptions {
  settings: ServerConnection.ISettings;
  frame: (frame: Frame) => void;
  state: (state: LinkState) => void;
  /** Tells whether the page is hidden; a hidden page closes its line. */
  hidden?: () => boolean;
  /** Seconds without a frame after which what is shown is called stale; the server says something every 10 s. */
  silence?: number;
  random?: () => number;
}

const FIRST = 0.5; // seconds before the first new attempt
const MOST = 30;
const HIDDEN_AFTER = 5; // seconds hidden before the line is closed: who only looks elsewhere keeps it

export class Link {
  constructor(private _options: LinkOptions) {
    document.addEventListener('visibilitychange', this._look);
    window.addEventListener('online', this._online);
    this._open();
  }

  dispose(): void {
    this._over = true;
    document.removeEventListener('visibilitychange', this._look);
    window.removeEventListener('online', this._online);
    window.clearTimeout(this._hiding);
    this._close();
  }

  /** Connect now instead of when the backoff ends. */
  retry(): void {
    if (!this._over && !this._socket && this._state !== 'hidden') {
      this._attempts = 0;
      window.clearTimeout(this._timer);
      this._open();
    }
  }

  private _open(): void {
    const { settings } = this._options;
    const generation = ++this._generation;
    let url = URLExt.join(settings.wsUrl, 'ciuic/watch');
    if (settings.appendToken && settings.token) {
      url += `?token=${encodeURIComponent(settings.token)}`;
    }
    this._tell(this._attempts === 0 ? 'connecting' : 'lost');
    const socket = new settings.WebSocket(url);
    this._socket = socket;
    this._watch(); // a line that never opens is silent, too
    // a late word of a line that was given up is not heard
    const current = (act: () => void) => () => generation === this._generation && act();
    socket.onmessage = event => current(() => this._hear(String(event.data)))();
    socket.onclose = current(() => this._lost());
    socket.onerror = () => undefined; // a close follows
  }

  private _hear(data: string): void {
    let frame: Frame;
    try {
      frame = JSON.parse(data);
    } catch {
      return;
    }
    this._attempts = 0;
    this._watch();
    this._options.frame(frame);
    this._tell('live');
  }

  private _lost(): void {
    this._close();
    this._attempts += 1;
    this._tell('lost');
    const random = this._options.random ?? Math.random;
    const most = Math.min(MOST, FIRST * 2 ** (this._attempts - 1));
    this._timer = window.setTimeout(() => this._open(), 1000 * most * (0.5 + random() / 2));
  }

  private _watch(): void {
    window.clearTimeout(this._watchdog);
    const silence = this._options.silence ?? 25;
    this._watchdog = window.setTimeout(() => {
      this._tell('stale');
      this._watchdog = window.setTimeout(() => this._lost(), 1000 * silence);
    }, 1000 * silence);
  }

  private _close(): void {
    this._generation += 1;
    window.clearTimeout(this._timer);
    window.clearTimeout(this._watchdog);
    const socket = this._socket;
    this._socket = null;
    if (socket) {
      socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }

  private _look = (): void => {
    window.clearTimeout(this._hiding);
    const hidden = this._options.hidden ?? (() => document.hidden);
    if (hidden()) {
      this._hiding = window.setTimeout(() => {
        this._close();
        this._tell('hidden');
      }, 1000 * HIDDEN_AFTER);
    } else if (this._state === 'hidden') {
      this._attempts = 0;
      this._open();
    }
  };

  private _online = (): void => this.retry();

  private _tell(state: LinkState): void {
    if (state !== this._state) {
      this._state = state;
      this._options.state(state);
    }
  }

  private _state: LinkState | null = null;
  private _socket: WebSocket | null = null;
  private _generation = 0;
  private _attempts = 0;
  private _timer = 0;
  private _watchdog = 0;
  private _hiding = 0;
  private _over = false;
}
