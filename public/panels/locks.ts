import type { LiveEvent, LockEvent } from '../../demo/live-events.js'
import { send } from '../api.js'
import { announce, find, make, onPress, show, write } from '../dom.js'
import { number, seconds, tokenText } from '../format.js'
import { prefersStillness } from '../theme.js'

type Worker = LockEvent['worker']

/** The time that a lane covers. */
const SPAN_MS = 15_000
const FRAME_MS = 50
const STILL_MS = 500
/** How much later the second worker starts, if the first one shall have the lock. */
const LATER_MS = 300

interface Edit {
  worker: Worker
  what: LockEvent['what']
  token: number | undefined
  waitingAt: number
  acquiredAt: number | undefined
  endedAt: number | undefined
  bar: HTMLElement
}

interface Outcome {
  status: number
  token: number | undefined
  waitedMs: number
  written: boolean
}

/** @returns a function that draws a step of a worker, at any instance */
export function locksPanel (): (event: LiveEvent<LockEvent>) => void {
  const edits = new Map<string, Edit>()
  let clockOffset = 0
  let refused = 0
  let drawnAt = 0

  function report (text: string): void {
    write('lock-result', text)
    announce(text)
  }

  onPress('lock-race', async () => {
    const outcomes = await Promise.all([edit('A'), edit('B')])
    const [first, second] = (['A', 'B'] as const).map((worker, i) => ({ worker, ...outcomes[i] ?? UNAVAILABLE })).sort(
      (a, b) => a.waitedMs - b.waitedMs
    )
    if (first === undefined || second === undefined || first.status !== 200 || second.status !== 200) {
      return report(whyFailed(outcomes.find(({ status }) => status !== 200)?.status))
    }
    report(
      `Worker ${first.worker} got the lock first. Worker ${second.worker} waited ${seconds(second.waitedMs)} and ` +
      `got the next token, ${tokenText(second.token)}.`
    )
  })
  for (const worker of ['A', 'B'] as const) {
    onPress(`lock-${worker.toLowerCase()}`, async () => {
      const { status, token, waitedMs, written } = await edit(worker)
      report(status !== 200
        ? whyFailed(status)
        : `Worker ${worker} waited ${seconds(waitedMs)}; its write with token ${tokenText(token)} was ` +
          `${written ? 'accepted' : 'refused'}.`)
    })
  }
  onPress('lock-no-wait', async () => {
    const [, second] = await Promise.all([edit('A'), later(() => edit('B', { wait: false }))])
    report(
      second.status === 423
        ? 'Worker B did not wait: 423 Locked, because worker A holds the lock.'
        : second.status === 200 ? 'Worker B found the lock free.' : whyFailed(second.status)
    )
  })
  onPress('lock-stall', async () => {
    report('Worker A stalls for 4 s; its lock expires after 1 s.')
    const [stalled, second] = await Promise.all([edit('A', { stall: true }), later(() => edit('B'))])
    if (stalled.status !== 200 || second.status !== 200) {
      return report(whyFailed(stalled.status === 200 ? second.status : stalled.status))
    }
    report(stalled.written
      ? 'No other worker has written, so the late write was accepted.'
      : `Worker A came back late: its write with token ${tokenText(stalled.token)} was refused, because worker B ` +
        `has written with token ${tokenText(second.token)}.`)
  })

  function draw (): void {
    const now = Date.now() + clockOffset
    for (const [id, edit] of edits) {
      const { bar, waitingAt, acquiredAt, endedAt } = edit
      // The end of an edit is missing if its instance was killed.
      if ((endedAt ?? now) < now - SPAN_MS || waitingAt < now - 2 * SPAN_MS) {
        bar.remove()
        edits.delete(id)
        continue
      }
      const end = endedAt ?? now
      const shareOf = (ms: number) => `${Math.max(0, ms / SPAN_MS * 100)}%`
      const from = Math.max(waitingAt, now - SPAN_MS)
      bar.style.left = shareOf(from - (now - SPAN_MS))
      bar.style.width = shareOf(end - from)
      const [wait, hold] = [...bar.children].filter(child => child instanceof HTMLElement)
      const held = acquiredAt === undefined ? 0 : end - Math.max(acquiredAt, from)
      if (wait !== undefined) wait.style.width = `${(1 - held / Math.max(1, end - from)) * 100}%`
      if (hold !== undefined) hold.style.width = `${held / Math.max(1, end - from) * 100}%`
    }
    const running = [...edits.values()].filter(({ endedAt }) => endedAt === undefined)
    // A stalled worker still believes that it has the lock: the newest token counts.
    const holder = running.filter(({ acquiredAt }) => acquiredAt !== undefined).sort((a, b) =>
      (b.token ?? 0) - (a.token ?? 0))[0]
    write('lock-holder', holder === undefined ? 'free' : `worker ${holder.worker}`)
    write('lock-waiting', number(running.filter(({ acquiredAt }) => acquiredAt === undefined).length))
  }

  function frame (at: number): void {
    if (at - drawnAt >= (prefersStillness.matches ? STILL_MS : FRAME_MS)) {
      drawnAt = at
      draw()
    }
    // Nothing moves while no edit is shown.
    if (edits.size > 0) requestAnimationFrame(frame)
  }

  return event => {
    clockOffset = event.at - Date.now()
    const { edit: id, worker, what, token, at } = event
    const edit = edits.get(id) ??
      { worker, what, token, waitingAt: at, acquiredAt: undefined, endedAt: undefined, bar: makeBar() }
    if (!edits.has(id)) {
      edits.set(id, edit)
      find(`lane-${worker.toLowerCase()}`, HTMLElement).append(edit.bar)
      if (edits.size === 1) requestAnimationFrame(frame)
    }
    edit.what = what
    edit.token = token ?? edit.token
    if (what === 'acquired') edit.acquiredAt = at
    if (what === 'written' || what === 'refused' || what === 'failed') edit.endedAt = at
    if (what === 'refused' || what === 'failed') write('lock-refused', number(++refused))
    if (what === 'acquired') write('lock-token', tokenText(token))
    edit.bar.dataset['what'] = what
    edit.bar.lastElementChild?.replaceChildren(what === 'refused' ? 'refused' : tokenText(edit.token).slice(-4))
    show('lanes-empty', false)
  }
}

function makeBar (): HTMLElement {
  return make('div', { className: 'bar' }, make('span', { className: 'wait' }), make('span', { className: 'hold' }))
}

const UNAVAILABLE: Outcome = { status: 0, token: undefined, waitedMs: 0, written: false }

async function edit (worker: Worker, options: { wait?: boolean, stall?: boolean } = {}): Promise<Outcome> {
  const { status, body } = await send<Outcome>('POST', '/live/document', { body: { worker, ...options } })
  return status === 200 ? { ...body, status } : { ...UNAVAILABLE, status }
}

async function later <T> (work: () => Promise<T>): Promise<T> {
  await new Promise(resolve => setTimeout(resolve, LATER_MS))
  return await work()
}

function whyFailed (status = 0): string {
  if (status === 423) return 'The lock was not free within 10 s (423).'
  if (status === 503) return 'Redis is unavailable (503): a lock has no fallback, because two instances could hold it.'
  return status === 429 ? 'Too many requests: try again later.' : `The request failed (${status}).`
}
