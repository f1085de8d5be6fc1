/** What all sessions cost: now, today and this month, against the same hours always on. */

import React from 'react';

import { money, percent, price } from './format';
import { spentAt } from './model';
import { BudgetBar, Scene, Ticking } from './parts';
import { Total } from './types';

export function Totals({ scene, total }: { scene: Scene; total: Total }): JSX.Element {
  const { trans, locale, model } = scene;
  const hours = (now: number) => Math.max(0, now - total.as_of) / 3600;
  const grown = (now: number) => total.rate_nano_per_hour * hours(now);
  const idle = (now: number) => (total.always_on_rate_nano_per_hour ?? 0) * hours(now);
  const open = model.sessions.filter(session => session.state !== 'closed');
  const none = model.rate === 0;
  return (
    <section className="ciuic-totals" aria-label={trans.__('Totals')}>
      <div className={`ciuic-rate${none ? '' : ' ciuic-flows'}`}>
        <span className="ciuic-big">{trans.__('%1/h', price(model.rate, total.currency, locale))}</span>
        <span className="ciuic-sub">
          {none ? trans.__('nothing is billed for compute now') : trans.__('billed now')}
        </span>
      </div>
      <dl>
        <Period
          scene={scene}
          total={total}
          label={trans.__('Today')}
          spent={now => total.today_nano + grown(now)}
          always={now => total.today_always_on_nano + idle(now)}
        />
        <Period
          scene={scene}
          total={total}
          label={trans.__('This month')}
          spent={now => total.month_nano + grown(now)}
          always={now => total.month_always_on_nano + idle(now)}
        />
      </dl>
      {total.budget_nano ? (
        <BudgetBar
          scene={scene}
          name={trans.__('Budgets of open sessions')}
          spent={now => open.reduce((sum, session) => sum + spentAt(session, now), 0)}
          budget={total.budget_nano}
          currency={total.currency}
        />
      ) : null}
    </section>
  );
}

interface PeriodProps {
  scene: Scene;
  total: Total;
  label: string;
  spent: (now: number) => number;
  always: (now: number) => number;
}

function Period({ scene, total, label, spent, always }: PeriodProps): JSX.Element {
  const { trans, locale, model } = scene;
  const text = (now: number) => {
    const [full, less] = [always(now), Math.max(0, 1 - spent(now) / always(now))];
    return less < 0.01
      ? ''
      : trans.__('%1 less than %2 always on', percent(less, locale), money(full, total.currency, locale));
  };
  return (
    <div>
      <dt>{label}</dt>
      <dd>
        <Ticking
          model={model}
          className="ciuic-amount2"
          text={now => money(spent(now), total.currency, locale)}
        />
        {always(model.clock.now()) > 0 && (
          <span
            className="ciuic-sub"
            title={trans.__('What the same machines would have cost if never let go')}
          >
            <Ticking model={model} text={text} />
          </span>
        )}
      </dd>
    </div>
  );
}
