import type { LiveEvent } from '../../demo/live-events.js'
import { announce, find, make, show } from '../dom.js'
import { clock } from '../format.js'
import { WORDS } from './health.js'

const KEPT = 100
const SESSION_WORDS = { login: 'logged in', logout: 'logged out', revoke: 'ended a session' } as const
const TONES: Record<string, string> = { miss: 'strong', invalidate: 'strong', refused: 'bad' }

interface Row {
  at: number
  kind: string
  what: string
  detail: string
  instance: string
  /** Of a burst: how many of the same came after another. */
  count: number
}

/** @returns what takes an event */
export function eventsPanel (): (event: LiveEvent) => void {
  const log = find('log', HTMLOListElement)
  const pause = find('pause', HTMLButtonElement)
  let waiting: Row[] = []
  let isPaused = false
  let frame = 0

  function draw (): void {
    frame = 0
    if (isPaused || waiting.length === 0) return
    log.prepend(...waiting.slice(-KEPT).reverse().map(drawRow))
    waiting = []
    while (log.children.length > KEPT) log.lastElementChild?.remove()
    show('log-empty', false)
  }

  pause.addEventListener('click', () => {
    isPaused = !isPaused
    pause.setAttribute('aria-pressed', String(isPaused))
    pause.textContent = isPaused ? 'Go on' : 'Pause'
    if (!isPaused) draw()
  })

  return event => {
    const row = rowOf(event)
    if (row === undefined) return
    if (event.kind === 'health') announce(row.detail)
    const last = waiting.at(-1)
    if (last !== undefined && last.kind === row.kind && last.what === row.what && last.detail === row.detail && last.instance === row.instance) last.count++
    else waiting.push(row)
    if (waiting.length > KEPT) waiting.shift()
    frame ||= requestAnimationFrame(draw)
  }
}

function rowOf (event: LiveEvent): Row | undefined {
  const base = { at: event.at, instance: event.instance, kind: event.kind, count: 1 }
  switch (event.kind) {
    case 'cache': return { ...base, what: event.what, detail: event.of }
    case 'decision': return { ...base, kind: 'limit', what: event.allowed ? 'allowed' : 'refused', detail: '/limited' }
    case 'session': return { ...base, what: event.what, detail: `user id ${event.user} ${SESSION_WORDS[event.what]}` }
    case 'health': return { ...base, what: WORDS[event.status], detail: `health: ${WORDS[event.status]}; circuit: ${event.circuit ?? 'none'}` }
    case 'more': return { ...base, what: 'more', detail: `${event.count} that are not told one by one` }
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
