import t from 'tap'
import { Circuit, type CircuitStatus } from '../../plugins/shared/circuit.js'
import { systemClock } from '../../plugins/shared/clock.js'
import { until } from '../helpers/index.js'

function createCircuit (probe: () => Promise<unknown>): { circuit: Circuit, changes: CircuitStatus[] } {
  const changes: CircuitStatus[] = []
  const circuit = new Circuit({ threshold: 3, probeInterval: 10, flapWindow: 1000, stableFor: 100, probe, clock: systemClock, onChange: status => changes.push(status) })
  t.teardown(() => circuit.stop())
  return { circuit, changes }
}

t.test('a run of failures opens it once, and a success in between starts the run anew', async t => {
  const { circuit, changes } = createCircuit(() => new Promise(() => {}))
  circuit.failure(new Error('1'))
  circuit.failure(new Error('2'))
  circuit.success()
  circuit.failure(new Error('3'))
  circuit.failure(new Error('4'))
  t.equal(circuit.isOpen, false)
  circuit.failure(new Error('5'))
  circuit.failure(new Error('6'))
  t.equal(circuit.isOpen, true)
  t.match(changes, [{ state: 'open', opened: 1, lastError: { message: '5' } }])
})

t.test('it probes until the other side is back, and closes by that', async t => {
  let back = false
  let probes = 0
  const { circuit, changes } = createCircuit(async () => { probes++; if (!back) throw new Error('still away') })
  for (let i = 0; i < 3; i++) circuit.failure(new Error('away'))
  await until('it has probed', () => probes >= 3)
  t.equal(circuit.status.lastError?.message, 'still away')
  back = true
  await until('it closes', () => !circuit.isOpen)
  t.match(changes, [{ state: 'open' }, { state: 'closed', opened: 1, failures: 0 }])
})

t.test('one probe at a time waits for a side that hangs, and its late answer closes the circuit', async t => {
  let probes = 0
  let answer = (): void => {}
  const { circuit } = createCircuit(() => { probes++; return new Promise<void>(resolve => { answer = resolve }) })
  for (let i = 0; i < 3; i++) circuit.failure(new Error('hangs'))
  await new Promise(resolve => setTimeout(resolve, 60))
  circuit.probeNow()
  t.equal(probes, 1)
  answer()
  await until('it closes', () => !circuit.isOpen)
})

t.test('after stop it probes no more', async t => {
  let probes = 0
  const { circuit } = createCircuit(async () => { probes++; throw new Error('away') })
  for (let i = 0; i < 3; i++) circuit.failure(new Error('away'))
  circuit.stop()
  await new Promise(resolve => setTimeout(resolve, 50))
  t.equal(probes, 0)
})

t.test('one that comes and goes is back when it has stayed for a while', async t => {
  const { circuit } = createCircuit(async () => {})
  const fail = () => { for (let i = 0; i < 3; i++) circuit.failure(new Error('away')) }
  fail()
  await until('closed by the first probe', () => !circuit.isOpen)
  fail()
  const opened = Date.now()
  const disturbing = setInterval(() => circuit.disturbed(), 20)
  await new Promise(resolve => setTimeout(resolve, 300))
  t.equal(circuit.isOpen, true, 'it did not stay')
  clearInterval(disturbing)
  const stays = Date.now()
  await until('closed', () => !circuit.isOpen)
  t.ok(Date.now() - stays > 70 && Date.now() - opened > 300)
})
