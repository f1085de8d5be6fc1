/** A server in the page's own process: sockets and answers that tests hand out, with JupyterLab's own client in front. */

import { ServerConnection } from '@jupyterlab/services';

import { Session } from '../src/types';

export class Socket {
  static all: Socket[] = [];
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: (() => void) | null = null;
  onerror: (() => void) | null = null;
  closed = false;

  constructor(readonly url: string) {
    Socket.all.push(this);
  }

  static get last(): Socket {
    return Socket.all[Socket.all.length - 1];
  }

  say(frame: object): void {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  /** The server goes away. */
  drop(): void {
    this.onclose?.();
  }

  close(): void {
    this.closed = true;
  }
}

export type Answer = (path: string, init: RequestInit) => [number, unknown];

export function settings(answer: Answer = () => [404, null]): ServerConnection.ISettings {
  return ServerConnection.makeSettings({
    baseUrl: 'http://localhost/user/alice/',
    wsUrl: 'ws://localhost/user/alice/',
    token: 't&1',
    appendToken: true,
    WebSocket: Socket as unknown as typeof WebSocket,
    fetch: async (input: RequestInfo, init?: RequestInit) => {
      const url = typeof input === 'string' ? input : input.url;
      const [status, body] = answer(url.replace('http://localhost', ''), init ?? (input as Request));
      return new Response(JSON.stringify(body), { status });
    }
  });
}

export function session(changes: Partial<Session> = {}): Session {
  return {
    name: 's',
    state: 'running',
    instance: 'local.cpu',
    currency: 'USD',
    rate_nano_per_hour: 3_600_000_000,
    spent_nano: 1_000_000_000,
    as_of: 1000,
    ...changes
  };
}

export const total = {
  currency: 'USD',
  rate_nano_per_hour: 0,
  today_nano: 0,
  month_nano: 0,
  today_always_on_nano: 0,
  month_always_on_nano: 0,
  as_of: 1000
};

export function snapshot(sessions: Session[], now = 1000): object {
  return {
    type: 'snapshot',
    version: 1,
    plane: { up: true, version: '0', error: null },
    sessions,
    total,
    now
  };
}
