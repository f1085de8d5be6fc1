/** What ran and what was paused: a chart of days, rows to filter, and the receipt of each pause. */

import React from 'react';

import { Chart } from './chart';
import { bytes, money, moment, price, span } from './format';
import { Button, Name, Scene } from './parts';
import { QuoteView } from './quote';
import { History, HistoryRow, Receipt } from './types';
import { adviceText } from './words';

const MORE = 30; // rows shown at a time

export function HistoryView({ scene }: { scene: Scene }): JSX.Element {
  const { trans, model } = scene;
  const [open, setOpen] = React.useState(false);
  const [filter, setFilter] = React.useState('');
  const [history, setHistory] = React.useState<History | null>(null);
  const [problem, setProblem] = React.useState('');
  // a session that changes its state has made history
  const mark = model.sessions
    .map(session => `${session.name} ${session.state} ${session.run ?? ''}`)
    .join('\n');
  React.useEffect(() => {
    let current = true;
    if (open && model.plane?.up) {
      model.history('').then(
        found => current && (setHistory(found), setProblem('')),
        (error: Error) => current && setProblem(error.message)
      );
    }
    return () => void (current = false);
  }, [open, mark, model, model.plane?.up]);
  const wanted = filter.trim().toLowerCase();
  const rows = (history?.rows ?? []).filter(
    row =>
      !wanted ||
      `${row.session} ${row.text} ${row.reason ?? ''} ${row.machine ?? ''}`.toLowerCase().includes(wanted)
  );
  return (
    <details className="ciuic-history" open={open} onToggle={event => setOpen(event.currentTarget.open)}>
      <summary>{trans.__('History')}</summary>
      {problem && (
        <div className="ciuic-alert" role="alert">
          {problem}
        </div>
      )}
      {history && <Chart scene={scene} days={history.days} currency={history.currency} />}
      {history && history.rows.length > 0 && (
        <input
          className="ciuic-filter jp-mod-styled"
          type="search"
          placeholder={trans.__('Filter by session, code or reason')}
          aria-label={trans.__('Filter the history')}
          value={filter}
          onChange={event => setFilter(event.target.value)}
        />
      )}
      {history && <Rows scene={scene} rows={rows} filtered={wanted !== ''} />}
    </details>
  );
}

function Rows({
  scene,
  rows,
  filtered
}: {
  scene: Scene;
  rows: HistoryRow[];
  filtered: boolean;
}): JSX.Element {
  const { trans } = scene;
  const [count, setCount] = React.useState(MORE);
  if (rows.length === 0) {
    return (
      <p className="ciuic-sub">
        {filtered ? trans.__('Nothing matches.') : trans.__('Nothing has run yet.')}
      </p>
    );
  }
  return (
    <>
      <ul className="ciuic-rows">
        {rows.slice(0, count).map((row, at) => (
          <Row
            key={`${row.kind} ${row.session} ${row.run ?? row.machine ?? ''} ${row.at} ${at}`}
            scene={scene}
            row={row}
          />
        ))}
      </ul>
      {rows.length > count && (
        <Button
          label={trans.__('Show more')}
          hint={trans.__('%1 more rows', rows.length - count)}
          press={() => setCount(count + MORE)}
        />
      )}
    </>
  );
}

function Row({ scene, row }: { scene: Scene; row: HistoryRow }): JSX.Element {
  const { trans, locale, model } = scene;
  const when = moment(row.at, model.clock.now(), locale);
  const took = typeof row.seconds === 'number' ? span(row.seconds, locale) : '';
  const paused =
    !row.reason || row.reason === 'paused' ? trans.__('Paused') : trans.__('Paused: %1', row.reason);
  const head = (
    <>
      <span className="ciuic-what">
        {row.kind === 'pause' ? (
          <span className="ciuic-clip2">{paused}</span>
        ) : (
          <code className="ciuic-clip" title={row.text.slice(0, 300)}>
            {firstLine(row.text)}
          </code>
        )}
        <span className="ciuic-sub">
          <span className="ciuic-when">{when}</span>
          {took && <span>{took}</span>}
          <Name text={row.session} />
        </span>
      </span>
      <span className="ciuic-cost">
        {typeof row.cost_nano === 'number' ? money(row.cost_nano, row.currency, locale) : ''}
      </span>
    </>
  );
  if (row.kind === 'run') {
    return (
      <li>
        <Again scene={scene} row={row} head={head} />
      </li>
    );
  }
  return (
    <li>
      <Slip scene={scene} row={row} head={head} />
    </li>
  );
}

/** A run, which opens to what one more of its cell would cost. */
function Again({ scene, row, head }: { scene: Scene; row: HistoryRow; head: JSX.Element }): JSX.Element {
  const [open, setOpen] = React.useState(false);
  const ask = () => scene.model.quote({ run: row.run ?? '', session: row.session });
  return (
    <details onToggle={event => setOpen(event.currentTarget.open)}>
      <summary className="ciuic-row">{head}</summary>
      {open && <p className="ciuic-sub">{scene.trans.__('Once more:')}</p>}
      {open && <QuoteView scene={scene} ask={ask} />}
    </details>
  );
}

/** A pause, which opens to its receipt. */
function Slip({ scene, row, head }: { scene: Scene; row: HistoryRow; head: JSX.Element }): JSX.Element {
  const [receipt, setReceipt] = React.useState<Receipt | string | null>(null);
  const look = (open: boolean) => {
    if (open && receipt === null) {
      scene.model.receipts(row.session).then(
        all => setReceipt(nearest(all, row) ?? scene.trans.__('There is no receipt of this pause.')),
        (error: Error) => setReceipt(error.message)
      );
    }
  };
  return (
    <details onToggle={event => look(event.currentTarget.open)}>
      <summary className="ciuic-row">{head}</summary>
      {typeof receipt === 'string' && <p className="ciuic-sub">{receipt}</p>}
      {receipt !== null && typeof receipt === 'object' && <ReceiptView scene={scene} receipt={receipt} />}
    </details>
  );
}

/** Return the receipt of the pause that a row tells of: of its machine, else the one nearest in time. */
export function nearest(receipts: Receipt[], row: HistoryRow): Receipt | undefined {
  const same = receipts.find(receipt => row.machine && receipt.machine === row.machine);
  const at = row.ended ?? row.at;
  return same ?? [...receipts].sort((a, b) => Math.abs(a.at - at) - Math.abs(b.at - at))[0];
}

function ReceiptView({ scene, receipt }: { scene: Scene; receipt: Receipt }): JSX.Element {
  const { trans, locale } = scene;
  const cash = (nano: number) => money(nano, receipt.currency, locale);
  const lines: [string, string, string][] = [
    [trans.__('This machine'), span(receipt.segment_seconds, locale), cash(receipt.segment_nano)],
    [trans.__('Session, billed'), span(receipt.billed_seconds, locale), cash(receipt.spent_nano)],
    [
      trans.__('Session, not billed'),
      span(receipt.unbilled_seconds, locale),
      trans.__('%1 not spent', cash(receipt.unspent_nano))
    ]
  ];
  if (receipt.storage_nano) {
    lines.push([trans.__('Checkpoints'), '', cash(receipt.storage_nano)]);
  }
  if (receipt.checkpoint) {
    const names = receipt.checkpoint.names ?? [];
    const some = names.slice(0, 6).join(', ') + (names.length > 6 ? ', …' : '');
    lines.push([trans.__('Saved'), bytes(receipt.checkpoint.bytes, locale), some.slice(0, 200)]);
  }
  lines.push([trans.__('From now on'), '', trans.__('compute %1/h', price(0, receipt.currency, locale))]);
  const lost = receipt.checkpoint?.placeholders?.length ?? 0;
  return (
    <div className="ciuic-receipt">
      <table aria-label={trans.__('Receipt')}>
        <tbody>
          {lines.map(([what, much, cost]) => (
            <tr key={what}>
              <th scope="row">{what}</th>
              <td>{much}</td>
              <td>{cost}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {lost > 0 && <p className="ciuic-sub">{trans.__('%1 variables could not be saved', lost)}</p>}
      {receipt.advice?.map(one => (
        <p className="ciuic-sub" key={one.kind} title={trans.__('%1 says why', '%ciuic_advice')}>
          {adviceText(one, receipt.currency, scene)}
        </p>
      ))}
      {receipt.estimated && (
        <p className="ciuic-sub">
          {trans.__("The machine's end was not confirmed: billed until its last sign of life.")}
        </p>
      )}
    </div>
  );
}

function firstLine(text: string): string {
  const lines = text.split('\n').filter(line => line.trim() && !line.startsWith('#'));
  return (lines[0] ?? text.split('\n')[0] ?? '').slice(0, 120);
}
