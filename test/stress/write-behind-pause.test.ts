import t from 'tap'
import { backlogOf, judge, openFolder, startInstance } from '../helpers/cache/behind-children.js'
import { startRedis, until } from '../helpers/index.js'

const server = await startRedis()
const PAUSES = 3
// Longer than the lease of these instances.
const PAUSE_MS = 1500
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

t.test('an instance that was paused while it wrote cannot overtake its successor where the source refuses an older fence', async t => {
  const { folder, linesOf } = openFolder(t)
  const children = await Promise.all([0, 1].map(name => startInstance(t, server, 'pause', folder, `i${name}`, 10, 0, 1_000_000)))
  for (let pause = 0; pause < PAUSES; pause++) {
    const before = linesOf('accepted').length
    await until('more writes are accepted', () => linesOf('accepted').length > before + 500)
    children[pause % 2]?.kill('SIGSTOP')
    await wait(PAUSE_MS)
    children[pause % 2]?.kill('SIGCONT')
  }
  const before = linesOf('accepted').length
  await until('more writes are accepted', () => linesOf('accepted').length > before + 500)
  for (const child of children) child.kill('SIGKILL')
  await startInstance(t, server, 'pause', folder, 'last')
  await until('the backlog is empty', async () => await backlogOf(server, 'pause') === 0, 30_000)

  // Like a source that stores the fencing token of each key, and refuses older ones.
  const fences = new Map<string, number>()
  const lines = linesOf('written')
  const kept = lines.filter(([key = '', , fence]) => {
    const isOlder = Number(fence) < (fences.get(key) ?? 0)
    if (!isOlder) fences.set(key, Number(fence))
    return !isOlder
  })
  const { lost, duplicates, outOfOrder } = judge(kept, linesOf('accepted'))
  t.equal(lost, 0, 'none is lost')
  t.equal(outOfOrder, 0, 'none is out of order')
  t.comment(`${linesOf('accepted').length} accepted, ${lines.length} written, ${lines.length - kept.length} refused by their fence, ${duplicates} twice`)
})
