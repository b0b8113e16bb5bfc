/* What panel and viewer ask of the server. Everything hangs on one name: window.transunet. */
(function () {
  'use strict';

  const COOKIE = 'transunet_user';
  const MAX_NAME = 64;
  const FORBIDDEN = /[\\=\p{Cc}\p{Cs}\p{Zl}\p{Zp}]/u; // what a name in DICOM cannot hold; lib/server/identity.py checks the same

  /** The annotator's name, as the person typed it; empty when nobody did. */
  function user() {
    const entry = document.cookie.split('; ').find(part => part.startsWith(COOKIE + '='));
    try {
      return entry ? decodeURIComponent(entry.slice(COOKIE.length + 1)) : '';
    } catch (error) {
      return ''; // not written by this page
    }
  }

  /** Remember the name for a year; it is recorded as the author of labels. An error says what is wrong with it. */
  function setUser(name) {
    const kept = name.trim();
    if ([...kept].length > MAX_NAME) throw new Error(`A name has at most ${MAX_NAME} characters.`);
    if (FORBIDDEN.test(kept)) throw new Error('A name has no backslash, no = and no control characters.');
    const value = encodeURIComponent(kept);
    document.cookie = `${COOKIE}=${value}; path=/; max-age=31536000; samesite=strict`;
  }

  /** JSON of a request; an error carries the server's own words. */
  async function ask(method, path, body) {
    const options = { method, headers: { Accept: 'application/json' } };
    if (body !== undefined) {
      options.headers['Content-Type'] = 'application/json';
      options.body = JSON.stringify(body);
    }
    let response;
    try {
      response = await fetch(path, options);
    } catch (error) {
      throw new Error('The server does not answer. Is it still running?');
    }
    const text = await response.text();
    let answer = {};
    try {
      answer = text ? JSON.parse(text) : {};
    } catch (error) {
      answer = { detail: text.slice(0, 200) };
    }
    if (!response.ok) {
      const problem = new Error(typeof answer.detail === 'string' ? answer.detail : `Error ${response.status}`);
      problem.status = response.status;
      throw problem;
    }
    return answer;
  }

  const query = values => new URLSearchParams(Object.entries(values).filter(([, value]) => value)).toString();

  /** The strategy that the server is configured with. */
  const defaultStrategy = async task => (await ask('GET', `/worklist.json?${query({ task, limit: '0' })}`)).strategy;

  window.transunet = {
    user,
    setUser,
    worklistPath: task => (task ? `/worklist?${query({ task })}` : '/worklist'),
    worklist: (task, state) => ask('GET', `/worklist.json?${query({ task, state })}`),
    case: (study, series, task) => ask('GET', `/cases?${query({ study, series, task })}`),
    hold: (series, task) => ask('POST', `/cases/${series}/hold?${query({ task })}`),
    release: (series, task) => ask('POST', `/cases/${series}/release?${query({ task })}`),
    draft: (series, task) => ask('POST', `/cases/${series}/draft?${query({ task })}`),
    next: async (strategy, task) => ask('POST', `/activelearning/${strategy || (await defaultStrategy(task))}`, { task }),
    train: task => ask('POST', `/train/${task}`, {}),
  };
})();
