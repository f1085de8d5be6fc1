"""The look of meters and reports: theme variables of JupyterLab with plain fallbacks for everything else."""

from __future__ import annotations

METER = """<style>
.ciuic-meter {
  border: 1px solid var(--jp-border-color2, #8884); border-radius: 6px; padding: 7px 12px; margin: 2px 0 6px;
  max-width: 1080px; align-items: center; gap: 10px 20px; flex-flow: row wrap; overflow: hidden;
  background: var(--jp-layout-color1, transparent);
}
.ciuic-meter .ciuic-readout { flex: 1 1 470px; margin: 0; min-width: 0; height: auto; }
.ciuic-meter .ciuic-readout > .widget-html-content { width: 100%; line-height: normal; }
.ciuic-meter .ciuic-style { display: none; }
.ciuic-card {
  font-family: var(--jp-ui-font-family, system-ui, sans-serif); font-size: 13px; line-height: 1.35;
  color: var(--jp-ui-font-color1, inherit); font-variant-numeric: tabular-nums;
  display: flex; flex-flow: row wrap; align-items: center; gap: 5px 20px;
}
.ciuic-card .ciuic-who { flex: 1 1 180px; min-width: 150px; }
.ciuic-card .ciuic-state { font-weight: 600; display: flex; align-items: center; gap: 7px; }
.ciuic-card .ciuic-name {
  font-weight: 400; color: var(--jp-ui-font-color2, inherit); overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; min-width: 0;
}
.ciuic-card .ciuic-dot {
  width: 9px; height: 9px; border-radius: 50%; flex: none; background: var(--jp-warn-color1, #e08600);
}
.ciuic-card .ciuic-on .ciuic-dot { background: var(--jp-success-color1, #2e8b3d); }
.ciuic-card .ciuic-off .ciuic-dot {
  background: transparent; box-shadow: inset 0 0 0 2px var(--jp-ui-font-color2, #777);
}
.ciuic-card .ciuic-bad .ciuic-dot { background: var(--jp-error-color1, #c8322b); border-radius: 2px; }
.ciuic-card .ciuic-busy .ciuic-dot { animation: ciuic-pulse 1.6s ease-in-out infinite; }
.ciuic-card .ciuic-sub { color: var(--jp-ui-font-color2, inherit); font-size: 12px; overflow-wrap: anywhere; }
.ciuic-card .ciuic-fig { min-width: 84px; flex: none; }
.ciuic-card .ciuic-fig > b { display: block; font-size: 20px; line-height: 1.2; font-weight: 400; white-space: nowrap; }
.ciuic-card .ciuic-unspent > b { color: var(--jp-ui-font-color2, inherit); }
.ciuic-card .ciuic-spark { color: var(--jp-brand-color1, #1976d2); width: 84px; flex: none; }
.ciuic-card .ciuic-spark svg { display: block; }
.ciuic-card .ciuic-line {
  flex: 1 0 100%; font-size: 12px; display: flex; align-items: center; gap: 0 6px; min-height: 17px; flex-wrap: wrap;
}
.ciuic-card .ciuic-line > span:first-child { min-width: 0; overflow-wrap: anywhere; }
.ciuic-card .ciuic-line .ciuic-number { font-size: 13px; }
.ciuic-card .ciuic-alert {
  flex: 1 0 100%; font-size: 12px; border-left: 3px solid var(--jp-error-color1, #c8322b); padding-left: 8px;
}
.ciuic-card .ciuic-budgets { flex: 1 0 100%; display: flex; flex-flow: row wrap; gap: 4px 20px; }
.ciuic-card .ciuic-budget {
  flex: 1 1 150px; max-width: 320px; display: flex; flex-flow: row wrap; gap: 2px 8px; align-items: baseline;
}
.ciuic-card .ciuic-budget > b { font-size: 12px; font-weight: 600; }
.ciuic-card .ciuic-bar {
  flex: 1 0 100%; height: 4px; border-radius: 2px; background: var(--jp-layout-color3, #8883); overflow: hidden;
}
.ciuic-card .ciuic-bar > svg { display: block; width: 100%; height: 100%; }
.ciuic-card .ciuic-bar rect { fill: var(--jp-brand-color1, #1976d2); }
.ciuic-card .ciuic-half .ciuic-bar rect { fill: var(--jp-warn-color1, #e08600); }
.ciuic-card .ciuic-over .ciuic-bar rect { fill: var(--jp-error-color1, #c8322b); }
.ciuic-meter .ciuic-buttons { flex: none; gap: 6px; margin: 0; overflow: visible; padding: 3px; }
.ciuic-meter .jupyter-button.ciuic-button {
  width: auto; min-width: 86px; height: 28px; line-height: 26px; margin: 0; border-radius: 4px; font-size: 13px;
  background: var(--jp-layout-color2, #8882); color: var(--jp-ui-font-color1, inherit);
  border: 1px solid var(--jp-border-color1, #8886); box-shadow: none;
}
.ciuic-meter .jupyter-button.ciuic-button.ciuic-main {
  background: var(--jp-brand-color1, #1976d2); border-color: transparent; color: var(--jp-ui-inverse-font-color1, #fff);
}
.ciuic-meter .jupyter-button.ciuic-button:focus-visible {
  outline: 2px solid var(--jp-brand-color1, #1976d2); outline-offset: 1px;
}
.ciuic-meter .jupyter-button.ciuic-button.ciuic-na { opacity: 0.5; cursor: default; box-shadow: none; }
@keyframes ciuic-pulse { 50% { opacity: 0.35; } }
@media (prefers-reduced-motion: reduce) {
  .ciuic-card .ciuic-dot { animation: none !important; }
}
@media (forced-colors: active) { .ciuic-card .ciuic-dot { background: CanvasText; } }
</style>"""

REPORT = """<style>
.ciuic-report {
  font-family: var(--jp-ui-font-family, system-ui, sans-serif); font-size: 13px; line-height: 1.45;
  color: var(--jp-ui-font-color1, inherit); font-variant-numeric: tabular-nums;
  border: 1px solid var(--jp-border-color2, #8884); border-radius: 6px; padding: 10px 14px; margin: 2px 0;
  max-width: 720px; background: var(--jp-layout-color1, transparent);
}
.ciuic-report .ciuic-title { margin: 0 0 4px; font-size: 14px; font-weight: 600; }
.ciuic-report table.ciuic-t {
  border-collapse: collapse; margin: 0; font-size: 13px; border: none; width: 100%; table-layout: auto;
}
.ciuic-report table.ciuic-t td, .ciuic-report table.ciuic-t th {
  text-align: left; padding: 3px 14px 3px 0; border: none; vertical-align: top; background: transparent;
  color: inherit; overflow-wrap: anywhere; min-width: 64px; max-width: 460px; white-space: normal;
}
.ciuic-report table.ciuic-t th {
  font-weight: 400; color: var(--jp-ui-font-color2, inherit); white-space: nowrap; width: 130px;
}
.ciuic-report table.ciuic-t tr {
  background: transparent !important; border-top: 1px solid var(--jp-border-color3, #8882);
}
.ciuic-report table.ciuic-t tr:first-child { border-top: none; }
.ciuic-report table.ciuic-t td.ciuic-r { text-align: right; overflow-wrap: normal; }
.ciuic-report table.ciuic-t td:last-child { padding-right: 0; }
.ciuic-report .ciuic-block + .ciuic-block { border-top: 1px solid var(--jp-border-color3, #8882); }
.ciuic-report .ciuic-note { margin-top: 6px; font-size: 12px; color: var(--jp-ui-font-color2, inherit); }
.ciuic-report .ciuic-chart { margin: 6px 0; }
.ciuic-report .ciuic-chart svg { display: block; width: 100%; max-width: 640px; }
.ciuic-report .ciuic-chart text { font-size: 10px; fill: var(--jp-ui-font-color2, #777); }
.ciuic-report rect.ciuic-always { fill: var(--jp-layout-color3, #8884); }
.ciuic-report rect.ciuic-spent { fill: var(--jp-brand-color1, #1976d2); }
.ciuic-report .ciuic-key {
  display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin: 0 4px 0 12px;
  background: var(--jp-layout-color3, #8884);
}
.ciuic-report .ciuic-key.ciuic-key-spent { margin-left: 0; background: var(--jp-brand-color1, #1976d2); }
.ciuic-report .ciuic-warn { border-left: 3px solid var(--jp-warn-color1, #e08600); padding-left: 8px; margin-top: 8px; }
</style>"""
