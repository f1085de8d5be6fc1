/** The server's time: a browser's clock may be an hour off, or jump. */

const JUMP = 2; // seconds; less is what the line's delay explains

export class ServerClock {
  constructor(private _local: () => number = () => Date.now() / 1000) {}

  /** Take note of the server's time as it has just come. */
  hear(now: number): void {
    const offset = now - this._local();
    // a frame is late, never early: of two near answers the larger is the truer
    if (this._offset === null || Math.abs(offset - this._offset) > JUMP || offset > this._offset) {
      this._offset = offset;
    }
  }

  /** Return the server's time now, in unix seconds. */
  now(): number {
    return this._local() + (this._offset ?? 0);
  }

  private _offset: number | null = null;
}
