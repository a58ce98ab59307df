import type { LiveEvent } from '../../demo/live-events.js'
import { announce, find, make, show } from '../dom.js'
import { clock, euros, tokenText } from '../format.js'
import { circuitText, STATUS_TEXT } from './health.js'

const MAX_ROWS = 100
const SESSION_WORDS = { login: 'logged in', logout: 'logged out', revoke: 'revoked a session' } as const
const TONES: Record<string, string> = {
  miss: 'strong',
  invalidate: 'strong',
  acquired: 'strong',
  charged: 'strong',
  refused: 'bad',
  failed: 'bad',
  dead: 'bad'
}

interface Row {
  at: number
  kind: string
  what: string
  detail: string
  instance: string
  /** The number of equal events in a row. */
  count: number
}

/** @returns a function that adds an event to the log */
export function eventsPanel (): (event: LiveEvent) => void {
  const log = find('log', HTMLOListElement)
  const pause = find('pause', HTMLButtonElement)
  let pending: Row[] = []
  let isPaused = false
  let frame = 0

  function draw (): void {
    frame = 0
    if (isPaused || pending.length === 0) return
    log.prepend(...pending.slice(-MAX_ROWS).reverse().map(drawRow))
    pending = []
    while (log.children.length > MAX_ROWS) log.lastElementChild?.remove()
    show('log-empty', false)
  }

  pause.addEventListener('click', () => {
    isPaused = !isPaused
    pause.setAttribute('aria-pressed', String(isPaused))
    pause.textContent = isPaused ? 'Resume' : 'Pause'
    if (!isPaused) draw()
  })

  return event => {
    const row = rowOf(event)
    if (row === undefined) return
    if (event.kind === 'health') announce(row.detail)
    const last = pending.at(-1)
    if (last !== undefined && last.kind === row.kind && last.what === row.what && last.detail === row.detail &&
      last.instance === row.instance) last.count++
    else pending.push(row)
    if (pending.length > MAX_ROWS) pending.shift()
    frame ||= requestAnimationFrame(draw)
  }
}

function rowOf (event: LiveEvent): Row | undefined {
  const base = { at: event.at, instance: event.instance, kind: event.kind, count: 1 }
  switch (event.kind) {
    case 'cache': return { ...base, what: event.what, detail: event.of }
    case 'decision': return { ...base, kind: 'limit', what: event.allowed ? 'allowed' : 'refused', detail: '/limited' }
    case 'session': return { ...base, what: event.what, detail: `user id ${event.user} ${SESSION_WORDS[event.what]}` }
    case 'health': return {
      ...base,
      what: STATUS_TEXT[event.status],
      detail: `health: ${STATUS_TEXT[event.status]}; circuit: ${circuitText(event.circuit)}`
    }
    case 'lock': return {
      ...base,
      what: event.what,
      detail: `worker ${event.worker}${event.token === undefined ? '' : `, token ${tokenText(event.token)}`}`
    }
    case 'payment': return {
      ...base, what: 'charged', detail: `payment ${event.paymentId}, ${euros(event.amountCents)}`
    }
    case 'parcel': return {
      ...base,
      kind: 'stream',
      what: event.what,
      detail: `parcel of ${event.customer}${event.attempt > 1 ? `, attempt ${event.attempt}` : ''}`
    }
    case 'batch': return {
      ...base,
      kind: 'write',
      what: event.written ? 'written' : 'refused',
      detail: `${event.views} views in one statement`
    }
    case 'more': return {
      ...base, what: 'more', detail: `${event.count} more ${event.count === 1 ? 'event' : 'events'} not shown`
    }
    default: return undefined
  }
}

function drawRow ({ at, kind, what, detail, instance, count }: Row): HTMLElement {
  return make('li', {},
    make('time', { text: clock(at) }),
    make('span', { text: kind, className: 'kind' }),
    make('b', { text: what, className: TONES[what] ?? '' }),
    make('span', { text: count > 1 ? `${detail} × ${count}` : detail, className: 'detail', title: detail }),
    make('code', { text: instance }))
}
