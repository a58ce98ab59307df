import t from 'tap'
import { startHeartbeat } from '../helpers/timing/heartbeat.js'
import { monotonicMs } from '../helpers/timing/stalls.js'

t.test('the work of this process counts as time, and not as a stall of the machine', async t => {
  const { span } = await startHeartbeat(t)
  const { judge } = span()
  const cpu = process.cpuUsage()
  // 300 ms of work that blocks the event loop, however long the machine takes over it.
  while (process.cpuUsage(cpu).user < 300_000);
  const { elapsed, stalled } = await judge()
  t.ok(elapsed >= 300)
  t.ok(elapsed - stalled > 150, `${elapsed} ms, ${stalled} stalled`)
})

t.test('the time in which a process is stopped is a stall', async t => {
  const { span } = await startHeartbeat(t)
  const { judge } = span()
  const begun = monotonicMs()
  // Like a machine that runs something else: this process waits without using the CPU.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300)
  const { elapsed, stalled } = await judge()
  t.ok(monotonicMs() - begun >= 300)
  t.ok(stalled >= 250 && stalled <= elapsed * 2, `${elapsed} ms, ${stalled} stalled`)
})
