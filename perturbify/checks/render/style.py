"""The page's style sheet: light and dark, from a phone's width up, and for print."""

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --panel: #f6f7f9; --ink: #16191d; --soft: #565e69; --rule: #d8dce2;
  --good: #116932; --bad: #b3261e; --open: #85580a; --good-tint: #e6f4ea; --bad-tint: #fceae8; --open-tint: #fdf3dc;
  --c0: #1f63c1; --c1: #c2410c; --c2: #0f766e; --c3: #7c3aed; --c4: #946200; --c5: #be185d; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --panel: #1d2126; --ink: #e8eaed; --soft: #a6aeb9;
  --rule: #3a414a; --good: #7bd496; --bad: #ff9b91; --open: #ecc05c; --good-tint: #16301f; --bad-tint: #3d1a18;
  --open-tint: #352a10; --c0: #7cb0ff; --c1: #ff9864; --c2: #4fd1c5; --c3: #bfa3ff; --c4: #e0b252; --c5: #ff8fbf; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0.1rem 0 0.4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 0.7rem; padding-top: 0.9rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 0; }
p { margin: 0.4rem 0; max-width: 75ch; overflow-wrap: anywhere; }
.soft, figcaption, dt { color: var(--soft); }
.kicker { font-size: 0.8rem; letter-spacing: 0.08em; text-transform: uppercase; }
.banner { margin: 1.4rem 0; padding: 0.9rem 1.1rem; border-left: 6px solid currentColor; border-radius: 4px; }
.banner p { color: var(--ink); }
.banner .verdict { font-size: 1.15rem; font-weight: 650; color: inherit; }
.lead p { font-size: 1.08rem; }
.pass { color: var(--good); } .fail { color: var(--bad); } .undecided { color: var(--open); }
.banner.pass, .badge.pass { background: var(--good-tint); } .banner.fail, .badge.fail { background: var(--bad-tint); }
.banner.undecided, .badge.undecided { background: var(--open-tint); }
.evidence { width: 100%; } .evidence td:first-child { min-width: 13rem; }
.evidence td:nth-child(2) { width: 200px; } .evidence td:nth-child(3) { width: 18rem; }
.evidence td:nth-child(4) { width: 7rem; white-space: nowrap; }
.badge { display: inline-block; padding: 0 0.55em; border-radius: 1em; font-size: 0.85rem; font-weight: 600; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 11.5rem), 1fr)); gap: 0.9rem;
  margin: 0; }
.tiles div { background: var(--panel); border-radius: 6px; padding: 0.8rem 1rem; }
.tiles dd { margin: 0; } .tiles .big { font-size: 1.75rem; font-weight: 650; line-height: 1.25; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.6rem 2rem; }
figure { margin: 0; break-inside: avoid; } figcaption { font-size: 0.88rem; min-height: 4.2rem; }
figcaption strong { color: var(--ink); display: block; font-size: 1rem; }
svg.chart { display: block; width: 100%; height: auto; margin-top: 0.4rem; overflow: visible; }
svg text { font-size: 12.5px; fill: var(--soft); } .title { font-weight: 600; }
.grid, .tick { stroke: var(--rule); fill: none; }
.level { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 6 4; } .level.chance { stroke-dasharray: 1.5 4; }
.s0 { --c: var(--c0); } .s1 { --c: var(--c1); } .s2 { --c: var(--c2); }
.ink { --c: var(--ink); } .s3 { --c: var(--c3); } .s4 { --c: var(--c4); } .s5 { --c: var(--c5); }
.line { stroke: var(--c); stroke-width: 2; fill: none; } .band { fill: var(--c); opacity: 0.15; }
.dot { fill: var(--c); stroke: var(--paper); stroke-width: 1; }
.key { list-style: none; display: flex; flex-wrap: wrap; gap: 0.1rem 1.1rem; margin: 0.3rem 0 0; padding: 0;
  font-size: 0.88rem; }
.key svg { vertical-align: -2px; margin-right: 0.4em; }
.scroll { overflow-x: auto; max-width: 100%; } .scroll:focus-visible { outline: 2px solid var(--c0); }
table { border-collapse: separate; border-spacing: 0; font-size: 0.84rem; font-variant-numeric: tabular-nums; }
.caption { font-size: 0.88rem; max-width: none; }
th, td { padding: 0.3rem 0.55rem 0.3rem 0; text-align: left; vertical-align: middle; }
thead th { border-bottom: 2px solid var(--rule); vertical-align: bottom; }
tbody th { font-weight: 500; position: sticky; left: 0; background: var(--paper); }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
.number { text-align: right; } td.number { white-space: nowrap; } .name { white-space: nowrap; }
tr.strongest > * { background: var(--panel); font-weight: 650; }
svg.bar { display: inline-block; width: 52px; margin-left: 0.6em; vertical-align: -1px; }
.bar path { stroke: var(--ink); }
.track { fill: var(--rule); opacity: 0.5; } .fill { fill: var(--c0); opacity: 0.55; }
.criterion { border: 1px solid var(--rule); border-radius: 6px; padding: 0.7rem 1rem; margin: 0.8rem 0;
  break-inside: avoid; }
.criterion .head { display: flex; flex-wrap: wrap; gap: 0.3rem 0.8rem; align-items: baseline; }
svg.whisker { display: block; fill: currentColor; }
.whisker .span { stroke: currentColor; stroke-width: 2; } .whisker .limit { stroke: var(--soft); stroke-width: 1.5; }
.whisker .beyond { fill: var(--bad); opacity: 0.1; }
.strip img { display: block; width: 80px; height: 80px; object-fit: contain; image-rendering: pixelated;
  border-radius: 3px; }
.strip td, .strip th { text-align: center; border: 0 !important; padding: 0.15rem 0.3rem; }
.strip tbody th { text-align: left; padding-right: 0.9rem; }
dl.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 0.15rem 1.2rem; font-size: 0.92rem; }
dl.facts dd { margin: 0; overflow-wrap: anywhere; } pre { margin: 0; white-space: pre-wrap; font-size: 0.82rem; }
details { margin: 0.7rem 0; } summary { cursor: pointer; font-weight: 600; }
blockquote { margin: 0.6rem 0; padding: 0.1rem 1rem; border-left: 4px solid var(--rule); }
@media (max-width: 480px) { svg text { font-size: 14px; } main { padding-top: 1rem; } figcaption { min-height: 0; }
  dl.facts { grid-template-columns: 1fr; } dl.facts dd { margin-bottom: 0.4rem; } }
@media (max-width: 600px) { .evidence thead { display: none; }
  .evidence tbody td { display: block; width: auto; min-width: 0; padding: 0.1rem 0; border: 0; text-align: left; }
  .evidence tr + tr td:first-child { margin-top: 0.6rem; } }
@media print { :root { --paper: #fff; --panel: #f6f7f9; --ink: #000; --soft: #444; --rule: #bbb; color-scheme: light;
  --good: #116932; --bad: #b3261e; --open: #85580a; --good-tint: #fff; --bad-tint: #fff; --open-tint: #fff;
  --c0: #1f63c1; --c1: #c2410c; --c2: #0f766e; --c3: #7c3aed; --c4: #946200; --c5: #be185d; }
  main { max-width: none; padding: 0; } body { font-size: 10.5pt; } .scroll { overflow: visible; }
  table { font-size: 7.5pt; } details::details-content { content-visibility: visible; } }
"""
