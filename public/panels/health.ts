import type { Check, LiveEvent, Sample, StoreState } from '../../demo/live-events.js'
import { find, make, write } from '../dom.js'
import { bytes, number } from '../format.js'

export const STATUS_TEXT = { pass: 'healthy', warn: 'warning', fail: 'failing' } as const

/** Names the state of a circuit breaker; `null` without Redis. */
export function circuitText (circuit: StoreState['circuit']): string {
  return circuit === null ? 'no Redis' : circuit === 'late' ? 'slow' : circuit
}

/** Returns the tone in which the state of a circuit breaker is shown. */
export function circuitTone (circuit: StoreState['circuit']): string {
  return circuit === null ? '' : circuit === 'closed' ? 'pass' : circuit === 'late' ? 'warn' : 'fail'
}

/** @returns a function that draws the sample of this page's instance */
export function healthPanel (): (sample: LiveEvent<Sample>) => void {
  const rows = new Map<string, HTMLElement>()
  const body = find('checks', HTMLTableElement).tBodies[0]

  return ({ health }) => {
    const status = find('health-status', HTMLElement)
    status.dataset['state'] = health.status
    write('health-status', STATUS_TEXT[health.status])
    for (const [name, row] of rows) {
      if (health.checks.some(check => check.name === name)) continue
      row.remove()
      rows.delete(name)
    }
    for (const check of health.checks) {
      const present = rows.get(check.name)
      if (present?.dataset['shows'] === JSON.stringify(check)) continue
      const row = rowOf(check)
      rows.set(check.name, row)
      if (present === undefined) body?.append(row)
      else present.replaceWith(row)
    }
  }
}

function rowOf (check: Check): HTMLElement {
  const { name, status, detail } = check
  const word = make('span', { text: STATUS_TEXT[status], className: 'state' })
  word.dataset['state'] = status
  const label = name.replace(':', ' ').replaceAll(/(?<=[a-z])(?=[A-Z])/g, ' ').toLowerCase()
  const value = make('td', { text: readable(detail), className: 'number' })
  const row = make('tr', {}, make('td', { text: label }), make('td', {}, word), value)
  row.dataset['shows'] = JSON.stringify(check)
  return row
}

function readable (detail: string): string {
  const [, value, unit] = /^(\d+(?:\.\d+)?) (bytes|percent|ms|s)$/.exec(detail) ?? []
  if (value === undefined) return detail
  if (unit === 'bytes') return bytes(Number(value))
  return `${number(Number(value))} ${unit === 'percent' ? '%' : unit}`
}
