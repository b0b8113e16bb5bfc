/* Looks of the panel; it stands in a shadow tree, so that OHIF's looks and ours do not meet. */
(function () {
  'use strict';

  window.transunetPanelStyle = `
    :host { display: block; height: 100%; overflow-y: auto; box-sizing: border-box; padding: 8px 10px 16px;
      color: #e6edf5; background: #0b0f14; font: 13px/1.4 Inter, system-ui, sans-serif; }
    h2 { font-size: 11px; font-weight: 600; letter-spacing: .06em; text-transform: uppercase; color: #8fa3b8; margin: 14px 0 4px; }
    p { margin: 2px 0; overflow-wrap: anywhere; }
    .top { display: flex; justify-content: space-between; gap: 8px; align-items: baseline; }
    .title { font-weight: 600; font-size: 14px; }
    .muted { color: #8fa3b8; } .small { font-size: 11px; } .dice { white-space: nowrap; } td.unfamiliar { color: #e0a526; }
    .badge { border-radius: 3px; padding: 1px 6px; font-size: 11px; white-space: nowrap; background: #223142; }
    .labelled { background: #14502f; } .submitted { background: #5a4712; } .held { background: #6b3d1f; } .drafted { background: #123f63; } .refused { background: #6b1f24; }
    .warn { border-left: 3px solid #e0a526; padding-left: 8px; }
    table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
    th { font-weight: 500; text-align: right; color: #8fa3b8; font-size: 11px; } th:first-child { text-align: left; }
    td { padding: 2px 0 2px 6px; text-align: right; } td:first-child { text-align: left; padding-left: 0; overflow-wrap: anywhere; }
    tr.absent td { color: #66788a; }
    .swatch { display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 6px; }
    .bar { display: inline-block; width: 30px; height: 5px; background: #1d2835; border-radius: 3px; vertical-align: middle; margin-left: 6px; }
    .bar i { display: block; height: 100%; background: #e0a526; border-radius: 3px; }
    .buttons { display: grid; grid-template-columns: 1fr 1fr; gap: 6px; margin-top: 8px; }
    button { font: inherit; color: #e6edf5; background: #1d2a39; border: 1px solid #33465b; border-radius: 4px; padding: 6px 8px; cursor: pointer; }
    button:hover:not(:disabled) { background: #27384b; } button:disabled { opacity: .45; cursor: default; }
    button:focus-visible, input:focus-visible { outline: 2px solid #5acce6; outline-offset: 1px; }
    button.main { background: #0b6e99; border-color: #0b6e99; } button.main:hover:not(:disabled) { background: #0f86ba; }
    button.label { border: 0; background: none; padding: 0; text-align: left; } button.label:disabled { opacity: 1; color: inherit; }
    button.label:hover:not(:disabled) { background: none; text-decoration: underline; }
    button.wide { grid-column: 1 / -1; }
    label { display: flex; gap: 6px; align-items: center; margin-top: 8px; color: #8fa3b8; }
    input { flex: 1; min-width: 0; font: inherit; color: #e6edf5; background: #131b24; border: 1px solid #33465b; border-radius: 4px; padding: 3px 6px; }
    output { display: block; margin-top: 10px; min-height: 2.8em; overflow-wrap: anywhere; }
    output.error { color: #ff9a9a; } a { color: #5acce6; }
  `;
})();
