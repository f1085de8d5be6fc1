/** Calls to the server extension; errors say what happened and what to do. */

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly type: string,
    message: string
  ) {
    super(message);
  }
}

export class Api {
  constructor(readonly settings: ServerConnection.ISettings) {}

  get<T>(parts: string[], query: Record<string, string> = {}): Promise<T> {
    return this._call<T>(parts, { method: 'GET' }, query);
  }

  post<T>(parts: string[], body: object = {}): Promise<T> {
    return this._call<T>(parts, { method: 'POST', body: JSON.stringify(body) });
  }

  private async _call<T>(parts: string[], init: RequestInit, query: Record<string, string> = {}): Promise<T> {
    const path = parts.map(encodeURIComponent).join('/');
    const asked = new URLSearchParams(query).toString();
    const url = URLExt.join(this.settings.baseUrl, 'ciuic', path) + (asked ? `?${asked}` : '');
    let response: Response;
    try {
      response = await ServerConnection.makeRequest(url, init, this.settings);
    } catch (error) {
      throw new ApiError(0, 'NetworkError', String(error));
    }
    const text = await response.text();
    let data: any = null;
    try {
      data = text ? JSON.parse(text) : null;
    } catch {
      // an error page of a proxy
    }
    if (!response.ok) {
      const error = data?.error ?? {};
      throw new ApiError(
        response.status,
        String(error.type ?? 'Error'),
        String(error.message ?? data?.message ?? `${response.status} ${response.statusText}`)
      );
    }
    return data as T;
  }
}
