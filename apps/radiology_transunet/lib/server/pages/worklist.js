/* The worklist: draws /worklist.json every few seconds. */
(function () {
  'use strict';

  const { element, count, millilitres, clock, date, rgb, leastDice } = window.transunetFormat;
  const server = window.transunet;
  const POLL_MS = 4000;
  const STATES = {
    drafted: 'Draft ready',
    todo: 'No draft',
    submitted: 'In review',
    held: 'Held back',
    labelled: 'Labelled',
    new: 'Being checked',
    refused: 'Refused',
  };
  const $ = id => document.getElementById(id);
  const address = new URLSearchParams(window.location.search);
  const chosen = { task: address.get('task') || '', state: address.get('state') || '', strategy: '' };
  let drawn = '';
  let waiting = 0;

  function say(text, isError = false) {
    $('message').textContent = text;
    $('message').className = isError ? 'bad' : '';
  }

  /** Run what a button asks for; an error is said in the server's words. */
  async function act(button, action) {
    button.disabled = true;
    try {
      say((await action()) || '');
    } catch (error) {
      say(error.message, true);
    } finally {
      button.disabled = false;
    }
  }

  /** Ask again and draw what changed; a poll is left out while the one before still waits. */
  async function poll() {
    if (!waiting) await refresh();
  }

  async function refresh() {
    waiting += 1;
    try {
      const answer = await server.worklist(chosen.task, chosen.state);
      const text = JSON.stringify(answer);
      if ($('message').dataset.away) {
        delete $('message').dataset.away;
        say('');
      }
      if (text !== drawn) draw(answer);
      drawn = text;
    } catch (error) {
      $('message').dataset.away = 'yes';
      say(error.message, true);
    } finally {
      waiting -= 1;
    }
  }

  function draw(answer) {
    options($('task'), answer.tasks, answer.task.name);
    options($('strategy'), Object.keys(answer.strategies), chosen.strategy || answer.strategy, answer.strategies);
    chosen.strategy = $('strategy').value;
    $('user').placeholder = answer.user;
    $('user').disabled = answer.login;
    if (answer.login) $('user').value = answer.user;
    drawModel(answer);
    drawTraining(answer);
    drawFilters(answer);
    drawRows(answer);
    drawTrouble(answer);
    drawHistory(answer.overview.verdicts);
  }

  function options(select, names, value, titles = {}) {
    if ([...select.options].map(option => option.value).join() !== names.join()) {
      select.replaceChildren(...names.map(name => element('option', { value: name, title: titles[name]?.description }, name)));
    }
    select.value = value;
  }

  function drawModel({ champion, archive }) {
    const dice = champion && champion.metrics.mean_dice;
    $('model').replaceChildren(
      ...(champion?.loading ? ['Model is being loaded …'] : champion ? ['Model ', element('b', {}, `v${champion.version}`), dice ? ` · Dice ${dice.toFixed(3)}` : ''] : ['No model yet: label a few series, then train'])
    );
    $('archive').className = archive.available ? 'fact' : 'fact bad';
    $('archive').textContent = archive.available ? `Orthanc ${archive.version}` : `Archive away: ${archive.error}`;
  }

  function drawTraining({ overview }) {
    const job = overview.training;
    const running = job && ['RUNNING', 'SUBMITTED'].includes(job.state);
    const words = {
      SUBMITTED: 'waits for a worker',
      RUNNING: `${Math.round(100 * (job?.progress || 0))} % ${job?.message || ''}`,
      DONE: `done ${clock(job?.ended)}`,
      ERROR: `failed ${clock(job?.ended)}: ${job?.error || ''}`,
      STOPPED: `stopped ${clock(job?.ended)}`,
    };
    $('training').textContent = job ? words[job.state] : 'none yet';
    $('training').className = job && job.state === 'ERROR' ? 'bad' : 'muted';
    $('progress').hidden = !running;
    $('progress').value = job?.progress || 0;
    $('train').disabled = Boolean(running);
    const verdict = overview.verdicts[0];
    $('verdict').textContent = verdict ? `v${verdict.version} ${verdict.verdict}: ${verdict.reason}` : '';
  }

  function drawFilters({ overview }) {
    const every = Object.values(overview.counts).reduce((sum, number) => sum + number, 0);
    const all = ['', ...Object.keys(STATES)].filter(state => state === '' || state === chosen.state || overview.counts[state]);
    $('filters').replaceChildren(
      ...all.map(state =>
        element(
          'button',
          { type: 'button', 'aria-pressed': String(chosen.state === state), onclick: () => filter(state) },
          state ? STATES[state] : 'All',
          element('b', {}, count(state ? overview.counts[state] : every))
        )
      )
    );
  }

  function filter(state) {
    chosen.state = state;
    drawn = '';
    refresh();
  }

  function drawRows({ cases, total, task, user }) {
    const most = Math.max(...cases.map(row => unsure(row) || 0), 1e-9);
    $('rows').replaceChildren(...cases.map(row => tableRow(row, task, user, most)));
    $('empty').hidden = cases.length > 0 && total <= cases.length;
    $('empty').textContent = cases.length
      ? `The first ${count(cases.length)} of ${count(total)}.`
      : chosen.state
      ? 'No series in this state.'
      : 'No series yet. Send a study to the archive; it appears here a few seconds after its last image.';
  }

  const unsure = row => {
    const values = Object.values(row.scores).filter(Number.isFinite);
    return values.length ? Math.max(...values) : null;
  };

  function tableRow(row, task, user, most) {
    const score = unsure(row);
    const mine = row.holder && row.holder === user;
    const bar = element('span', { class: 'bar', 'aria-hidden': 'true' }, element('i', { style: `width:${Math.round((100 * (score || 0)) / most)}%` }));
    return element(
      'tr',
      { class: mine ? 'mine' : null, 'data-series': row.series },
      element('td', { class: 'number muted' }, row.rank ?? ''),
      element('td', {}, element('span', { class: `badge ${row.state}` }, STATES[row.state])),
      element('td', {}, row.description || '(no description)', element('div', { class: 'muted small' }, `${row.modality} · ${count(row.instances)} images`)),
      element('td', { class: 'muted' }, row.patient),
      element('td', { class: 'date' }, date(row.date)),
      element('td', {}, found(row, task)),
      dice(row),
      element('td', { class: 'number' }, score === null ? '' : [score.toFixed(2), bar]),
      element('td', { class: 'why small' }, row.reason ? element('span', { class: 'bad' }, row.reason) : row.label?.held || row.why),
      element('td', {}, who(row, mine)),
      element('td', { class: 'open' }, row.state === 'refused' ? '' : element('a', { href: row.viewer }, 'Open'))
    );
  }

  function found(row, task) {
    const mask = row.label || row.draft;
    if (!mask) return '';
    const title = row.label ? `label by ${mask.author}` : `draft of v${mask.version}${mask.stored || mask.nothing_found ? '' : ', on its way to the archive'}`;
    const chips = task.labels
      .filter(label => mask.voxels[label.name])
      .map(label =>
        element(
          'span',
          { class: 'chip small', title: `${count(mask.voxels[label.name])} voxels` },
          element('span', { class: 'swatch', style: `background:${rgb(label.color)}` }),
          `${label.name} ${row.voxel_ml ? millilitres(mask.voxels[label.name] * row.voxel_ml) : count(mask.voxels[label.name])}`
        )
      );
    return [element('div', { class: 'found' }, chips.length ? chips : 'nothing found'), element('div', { class: 'muted small' }, title)];
  }

  /** The worst label's estimated Dice of a draft that nobody has corrected yet. */
  function dice(row) {
    const least = row.label ? null : leastDice(row.estimated_dice);
    if (!least) return element('td', { class: 'dice' });
    const where = [least.range, least.label].filter(Boolean).join(' · ');
    return element('td', { class: 'dice', title: least.title }, element('span', { class: least.isFamiliar ? null : 'badge unfamiliar' }, least.value), element('div', { class: 'muted small' }, where));
  }

  function who(row, mine) {
    if (row.label) {
      const changed = row.label.changed_voxels;
      return [row.label.author, element('div', { class: 'muted small' }, changed === null ? clock(row.label.created) : `${clock(row.label.created)} · ${count(changed)} voxels changed`)];
    }
    if (!row.holder) return '';
    return [mine ? 'you' : row.holder, element('div', { class: 'muted small' }, `until ${clock(row.held_until)}`)];
  }

  function drawTrouble({ overview, cases }) {
    const refused = cases.filter(row => row.state === 'refused');
    const lines = [
      ...refused.map(row => `Series ${row.description || row.series} refused: ${row.reason}`),
      ...overview.held.map(row => `Label ${row.annotation} by ${row.author} is held back for a reviewer: ${row.reason}`),
      ...overview.rejected.map(row => `Segmentation ${row.seg || ''} rejected: ${row.reason}`),
      ...overview.failures.map(job => `${job.kind} failed ${clock(job.ended)}: ${job.error}`),
    ];
    $('trouble').hidden = lines.length === 0;
    $('trouble').querySelector('summary').textContent = `Needs a look: ${lines.length}`;
    $('trouble').querySelector('ul').replaceChildren(...lines.map(line => element('li', {}, line)));
  }

  function drawHistory(verdicts) {
    $('history').hidden = verdicts.length === 0;
    $('history').querySelector('ul').replaceChildren(
      ...verdicts.map(row => element('li', {}, `${clock(row.at)} · v${row.version} ${row.verdict}: ${row.reason}`))
    );
  }

  $('task').addEventListener('change', () => {
    chosen.task = $('task').value;
    window.history.replaceState(null, '', server.worklistPath(chosen.task));
    refresh();
  });
  $('strategy').addEventListener('change', () => {
    chosen.strategy = $('strategy').value;
  });
  $('user').value = server.user();
  $('user').addEventListener('change', () => {
    try {
      server.setUser($('user').value);
      say('');
    } catch (error) {
      say(error.message, true);
      return;
    }
    refresh();
  });
  $('next').addEventListener('click', () =>
    act($('next'), async () => {
      const found = await server.next(chosen.strategy, $('task').value);
      if (!found.id) return (found.why || 'no case is free right now').replace(/^n/, 'N');
      window.location.assign(found.viewer);
      return `Opening ${found.SeriesDescription || found.id} …`;
    })
  );
  $('train').addEventListener('click', () =>
    act($('train'), async () => {
      const job = await server.train($('task').value);
      await refresh();
      return job.status === 'SUBMITTED' ? 'Training asked for.' : `Training: ${job.status}`;
    })
  );

  refresh();
  setInterval(() => document.hidden || poll(), POLL_MS);
})();
