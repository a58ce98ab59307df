import { SLOW_MS, type Behavior, type Fallbacks, type Fault, type LiveEvent } from '../../demo/live-events.js'
import { send } from '../api.js'
import { announce, find, make, onPress, show, write } from '../dom.js'
import { number } from '../format.js'
import { circuitText } from './health.js'

const MAX_CHANGES = 40

const FAULT_TEXT: Record<Fault, string> = {
  hang: 'hangs (SIGSTOP): connections stay open, and there are no replies',
  kill: 'is killed (SIGKILL), and restarts empty when it is restored',
  slow: `is slow: each reply takes ${SLOW_MS} ms more`,
  full: 'is full (maxmemory reached): it refuses writes',
  'read-only': 'is read-only: a replica without a master'
}

const STATE_TEXT = { pass: 'works', warn: 'fallback', fail: 'refuses' } as const

interface BreakRedisPanel {
  /** Shows the panel if the demo has started its Redis itself. */
  onHello (isBreakable: boolean): void
  /** Draws what the plugins of this page's instance do. */
  onFallbacks (event: LiveEvent<Fallbacks>): void
}

export function breakRedisPanel (): BreakRedisPanel {
  const rows = new Map<string, { row: HTMLElement, behavior: Behavior }>()
  const body = find('behaviors', HTMLTableElement).tBodies[0]
  let since = 0
  let wasBroken = false

  for (const fault of Object.keys(FAULT_TEXT)) onPress(`fault-${fault}`, async () => await setFault(fault))
  onPress('restore', async () => await setFault('none'))

  function drawRow (behavior: Behavior, at: number): void {
    const { plugin, state, text, ms } = behavior
    const present = rows.get(plugin)
    const row = rowOf(behavior)
    rows.set(plugin, { row, behavior })
    const hasChanged = present?.behavior.state !== state || (state !== 'pass' && present.behavior.text !== text)
    if (present !== undefined && hasChanged && wasBroken) addChange(`${plugin}: ${text}`, state, at - since, ms)
  }

  return {
    onHello (isBreakable) {
      for (const id of ['break', 'break-link']) show(id, isBreakable)
    },
    onFallbacks ({ fault, since: began, circuit, behaviors, at }) {
      write('break-state', fault === null ? 'Redis is available' : `Redis ${FAULT_TEXT[fault]}`)
      find('break-state', HTMLElement).dataset['state'] = fault === null ? 'pass' : 'fail'
      write('break-circuit', circuitText(circuit))
      for (const each of Object.keys(FAULT_TEXT)) {
        find(`fault-${each}`, HTMLButtonElement).setAttribute('aria-pressed', String(each === fault))
      }
      if (began !== since && (since > 0 || fault !== null)) {
        const text = fault === null ? 'Redis is restored' : `Redis ${FAULT_TEXT[fault]}`
        addChange(text, fault === null ? 'pass' : 'fail', 0)
        announce(text)
      }
      since = began
      wasBroken ||= fault !== null
      for (const behavior of behaviors) drawRow(behavior, at)
      body?.replaceChildren(...behaviors.flatMap(({ plugin }) => rows.get(plugin)?.row ?? []))
    }
  }
}

async function setFault (fault: string): Promise<void> {
  const { status } = await send('POST', '/live/redis', { body: { fault } })
  write('break-result', status === 200 ? '' : `Redis could not be changed (${status}).`)
}

function rowOf ({ plugin, state, text, ms }: Behavior): HTMLElement {
  const word = make('span', { text: STATE_TEXT[state], className: 'state' })
  word.dataset['state'] = state
  return make(
    'tr', {}, make('td', {}, make('b', { text: plugin })), make('td', {}, word), make('td', { text }),
    make('td', { text: `${number(ms)} ms`, className: 'number' })
  )
}

/** @param after - milliseconds since the fault began, or Redis was restored */
function addChange (text: string, state: Behavior['state'], after: number, ms?: number): void {
  const log = find('break-changes', HTMLOListElement)
  const word = make('span', { text, className: 'state' })
  word.dataset['state'] = state
  log.prepend(
    make(
      'li', {}, make('time', { text: `+${(Math.max(0, after) / 1000).toFixed(1)} s` }), word,
      ...ms === undefined ? [] : [make('small', { text: `${number(ms)} ms` })]
    )
  )
  while (log.children.length > MAX_CHANGES) log.lastElementChild?.remove()
  show('break-empty', false)
}
