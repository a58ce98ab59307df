import type { Check, LiveEvent, Sample } from '../../demo/live-events.js'
import { find, make, write } from '../dom.js'
import { bytes, number } from '../format.js'

export const WORDS = { pass: 'well', warn: 'warning', fail: 'failing' } as const

/** @returns what takes the sample of the instance that this page is connected to */
export function healthPanel (): (sample: LiveEvent<Sample>) => void {
  const rows = new Map<string, HTMLElement>()
  const body = find('checks', HTMLTableElement).tBodies[0]

  return ({ health }) => {
    const status = find('health-status', HTMLElement)
    status.dataset['state'] = health.status
    write('health-status', WORDS[health.status])
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
  const word = make('span', { text: WORDS[status], className: 'state' })
  word.dataset['state'] = status
  const row = make('tr', {}, make('td', { text: name.replace(':', ' ').replaceAll(/(?<=[a-z])(?=[A-Z])/g, ' ').toLowerCase() }), make('td', {}, word), make('td', { text: readable(detail), className: 'number' }))
  row.dataset['shows'] = JSON.stringify(check)
  return row
}

function readable (detail: string): string {
  const [, value, unit] = /^(\d+(?:\.\d+)?) (bytes|percent|ms|s)$/.exec(detail) ?? []
  if (value === undefined) return detail
  if (unit === 'bytes') return bytes(Number(value))
  return `${number(Number(value))} ${unit === 'percent' ? '%' : unit}`
}
