/** Each day's money as two bars: what was spent, over what the same machines would have cost always on. */

import React from 'react';

import { money } from './format';
import { Scene } from './parts';
import { Day } from './types';

const DAYS = 14;
const [WIDTH, HEIGHT] = [280, 64];

export function Chart({
  scene,
  days,
  currency
}: {
  scene: Scene;
  days: Day[];
  currency: string;
}): JSX.Element | null {
  const { trans, locale } = scene;
  const shown = days.slice(-DAYS);
  const most = Math.max(...shown.map(day => Math.max(day.spent_nano, day.always_on_nano)), 0);
  if (shown.length === 0 || most === 0) {
    return null;
  }
  const slot = WIDTH / Math.max(7, shown.length);
  const bar = Math.min(22, slot * 0.7);
  const high = (nano: number) => (nano > 0 ? Math.max(1.5, (HEIGHT * nano) / most) : 0);
  const text = (day: Day) =>
    trans.__(
      '%1: %2 spent, %3 always on',
      dayText(day.day, locale),
      money(day.spent_nano, currency, locale),
      money(day.always_on_nano, currency, locale)
    );
  return (
    <figure className="ciuic-chart">
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT + 14}`}
        role="img"
        aria-label={trans.__('Spent a day. %1', shown.map(text).join('; '))}
      >
        {shown.map((day, at) => {
          const x = at * slot + (slot - bar) / 2;
          return (
            <g key={day.day}>
              <title>{text(day)}</title>
              <rect x={at * slot} y={0} width={slot} height={HEIGHT} fill="transparent" />
              <rect
                className="ciuic-bar-always"
                x={x}
                width={bar}
                y={HEIGHT - high(day.always_on_nano)}
                height={high(day.always_on_nano)}
                rx={2}
              />
              <rect
                className="ciuic-bar-spent"
                x={x}
                width={bar}
                y={HEIGHT - high(day.spent_nano)}
                height={high(day.spent_nano)}
                rx={2}
              />
              <text x={x + bar / 2} y={HEIGHT + 11} textAnchor="middle">
                {dayText(day.day, locale, true)}
              </text>
            </g>
          );
        })}
      </svg>
      <figcaption className="ciuic-sub">
        <i className="ciuic-key ciuic-bar-spent" aria-hidden="true" /> {trans.__('spent')}
        <i className="ciuic-key ciuic-bar-always" aria-hidden="true" /> {trans.__('always on')}
      </figcaption>
    </figure>
  );
}

function dayText(day: string, locale: string, short = false): string {
  const date = new Date(`${day}T12:00:00`);
  return Number.isNaN(date.getTime())
    ? day.slice(0, 10)
    : date.toLocaleDateString(
        locale,
        short ? { day: 'numeric' } : { weekday: 'short', month: 'short', day: 'numeric' }
      );
}
