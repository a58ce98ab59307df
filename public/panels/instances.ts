import type { LiveEvent, Sample } from '../../demo/live-events.js'
import { find, make, write } from '../dom.js'
import { number } from '../format.js'
import { circuitText, circuitTone, STATUS_TEXT } from './health.js'

/** @returns a function that draws a second's samples; `own` is this page's instance */
export function instancesPanel (): (samples: ReadonlyArray<LiveEvent<Sample>>, own: string) => void {
  const body = find('instances', HTMLTableElement).tBodies[0]

  return (samples, own) => {
    const isAlone = samples.some(({ instance, store }) => instance === own && store.circuit === 'open')
    write('instances-count', isAlone
      ? 'Redis is unavailable, so other instances cannot report'
      : `${samples.length === 1 ? 'one instance' : `${samples.length} instances`}, figures per second`)
    body?.replaceChildren(...samples.map(({ instance, requests, rateLimit, store, health }) => {
      const cells = [
        make(
          'td', {}, make('code', { text: instance }), ...instance === own ? [make('span', { text: 'this page' })] : []
        ),
        make('td', { text: number(requests), className: 'number' }),
        make('td', { text: number(rateLimit.refused), className: 'number' }),
        stateCell(circuitTone(store.circuit), circuitText(store.circuit)),
        stateCell(health.status, STATUS_TEXT[health.status])
      ]
      return make('tr', {}, ...cells)
    }))
  }
}

function stateCell (state: string, text: string): HTMLElement {
  const word = make('span', { text, className: 'state' })
  word.dataset['state'] = state
  return make('td', {}, word)
}
