import type { LiveEvent, Sample } from '../../demo/live-events.js'
import { Chart } from '../chart.js'
import { find, show, write } from '../dom.js'
import { bytes, number } from '../format.js'
import { circuitText, circuitTone } from './health.js'

/** @returns a function that draws the sample of this page's instance */
export function redisPanel (): (sample: LiveEvent<Sample>) => void {
  const ping = new Chart(find('ping-chart', HTMLElement), [{ label: 'ping', filled: true }])
  const commands = new Chart(find('commands-chart', HTMLElement), [{ label: 'commands', filled: true }])

  return ({ store }) => {
    write('redis-label', store.label)
    show('redis-empty', !store.isRedis)
    show('redis-charts', store.isRedis)
    const circuit = find('circuit', HTMLElement)
    circuit.dataset['state'] = circuitTone(store.circuit)
    write('circuit', circuitText(store.circuit))
    write('redis-latency', number(store.latency))
    write('redis-commands', store.commands === null ? '–' : number(Math.round(store.commands)))
    write('redis-memory', bytes(store.memory) + (store.maxMemory ? ` of ${bytes(store.maxMemory)}` : ''))
    ping.add([store.latency])
    commands.add([store.commands])
  }
}
