/** Small parts that everything shown is made of. */

import { LabIcon } from '@jupyterlab/ui-components';
import React from 'react';

import { money, percent, price, span } from './format';
import { Model } from './model';
import { Tongue } from './words';

/** A handle on what every part needs. */
export interface Scene extends Tongue {
  model: Model;
}

/** Draw text that changes as time passes; it is no live region: nobody wants each cent read out. */
export function Ticking(props: {
  model: Model;
  text: (now: number) => string;
  className?: string;
}): JSX.Element {
  const element = React.useRef<HTMLSpanElement>(null);
  const text = React.useRef(props.text);
  text.current = props.text;
  React.useEffect(() => {
    const draw = () => {
      const shown = text.current(props.model.clock.now());
      if (element.current && element.current.textContent !== shown) {
        element.current.textContent = shown;
      }
    };
    props.model.ticked.connect(draw);
    return () => void props.model.ticked.disconnect(draw);
  }, [props.model]);
  const now = props.text(props.model.clock.now());
  return (
    <span ref={element} className={`ciuic-number ${props.className ?? ''}`}>
      {now}
    </span>
  );
}

export interface ButtonProps {
  label: string;
  hint: string;
  off?: boolean;
  main?: boolean;
  icon?: LabIcon;
  press: () => void;
}

/** A button that keeps the keyboard's focus while it can't be pressed: dimmed, not disabled. */
export function Button({ label, hint, off, main, icon, press }: ButtonProps): JSX.Element {
  return (
    <button
      type="button"
      className={`ciuic-button${main ? ' ciuic-main' : ''}`}
      aria-disabled={off ? true : undefined}
      title={hint}
      onClick={() => off || press()}
    >
      {icon && <icon.react tag="span" className="ciuic-glyph" aria-hidden="true" />}
      {label}
    </button>
  );
}

/** A bar of how much of a budget is spent, which counts on, and the last mark that is passed. */
export function BudgetBar(props: {
  scene: Scene;
  name: string;
  spent: (now: number) => number;
  budget: number;
  currency: string;
  mark?: number;
}): JSX.Element {
  const { trans, locale, model } = props.scene;
  const part = (now: number) => Math.min(1, props.spent(now) / props.budget);
  const share = part(model.clock.now());
  const mark = props.mark ?? (share >= 0.8 ? 80 : 0);
  const text = (now: number) =>
    trans.__(
      '%1: %2 of %3',
      props.name,
      percent(part(now), locale),
      price(props.budget, props.currency, locale)
    );
  const told =
    props.mark === 100
      ? trans.__('reached')
      : props.mark
        ? trans.__('past %1', percent(props.mark / 100, locale))
        : '';
  return (
    <div className={`ciuic-budget${mark >= 80 ? ' ciuic-over' : mark > 0 ? ' ciuic-half' : ''}`}>
      <div
        className="ciuic-bar"
        role="progressbar"
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={Math.round(100 * share)}
        aria-label={trans.__('Budget: %1', props.name)}
      >
        <i style={{ width: `${100 * share}%` }} />
      </div>
      <span className="ciuic-sub">
        <Ticking model={model} text={text} />
        {told && <strong role="alert">{told}</strong>}
      </span>
    </div>
  );
}

/** The use of a machine as a line: percent, oldest first, two points at least. */
export function Spark({ what, history }: { what: string; history: number[] }): JSX.Element {
  const [width, height] = [80, 26];
  const top = Math.max(100, ...history);
  const step = width / (history.length - 1);
  const points = history
    .map((value, at) => `${(at * step).toFixed(1)},${(height - 2 - ((height - 4) * value) / top).toFixed(1)}`)
    .join(' ');
  const text = `${what} ${Math.round(history[history.length - 1])}%`;
  return (
    <div className="ciuic-spark" role="img" aria-label={text} title={text}>
      <svg width={width} height={height} viewBox={`0 0 ${width} ${height}`} aria-hidden="true">
        <polygon points={`0,${height} ${points} ${width},${height}`} fill="currentColor" opacity="0.14" />
        <polyline
          points={points}
          fill="none"
          stroke="currentColor"
          strokeWidth="1.5"
          strokeLinejoin="round"
        />
      </svg>
      <span className="ciuic-sub">{text}</span>
    </div>
  );
}

/** Somebody's text, such as a session's name: shown as text, whatever it holds and whichever way it runs. */
export function Name({ text, className }: { text: string; className?: string }): JSX.Element {
  return (
    <bdi className={`ciuic-clip ${className ?? ''}`} title={text.slice(0, 300)}>
      {text.slice(0, 300)}
    </bdi>
  );
}

/** Money that is settled. */
export function amount(nano: number, currency: string, { locale }: Tongue): string {
  return money(nano, currency, locale);
}

export { price, span };
