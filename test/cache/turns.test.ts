import t from 'tap'
import { endingWith } from '../../plugins/shared/last-hook.js'
import { TurnReads } from '../../plugins/cache/turn-reads.js'

const nextTurn = () => new Promise(resolve => setImmediate(resolve))

for (const sends of [() => 0, undefined]) {
  t.test(`each key is read once a turn, however many ask for it, and again in the next one (${sends ? 'sent at its end' : 'sent at once'})`, async t => {
    const asked: string[] = []
    const reads = new TurnReads<string>(sends)
    const get = (key: string) => reads.get(key, async () => `${key}${asked.push(key)}`)
    const first = await Promise.all([get('a'), get('b'), get('a')])
    t.same([first, asked], [['a1', 'b2', 'a1'], ['a', 'b']])
    await nextTurn()
    t.same(await Promise.all([get('a'), get('a')]), ['a3', 'a3'])
  })
}

t.test('a read that fails fails for all who asked in its turn, and for nobody else', async t => {
  let fails = true
  const reads = new TurnReads<string>(() => 0)
  const get = () => reads.get('a', async () => { if (fails) throw new Error('lost'); return 'a' })
  const results = await Promise.allSettled([get(), get()])
  t.same(results.map(({ status }) => status), ['rejected', 'rejected'])
  fails = false
  await nextTurn()
  t.equal(await get(), 'a')
})

t.test('nobody is given what was sent before they asked, even within one turn', async t => {
  let sends = 0
  const reads = new TurnReads<number>(() => sends)
  const get = () => reads.get('a', async () => sends)
  const early = get()
  t.equal(get(), early)
  sends++
  t.same(await Promise.all([early, get()]), [0, 1])
})

t.test('the hook stays the last one, whoever appends others and however', async t => {
  for (const [present, expected] of [[undefined, []], ['a', ['a']], [['a', 'b'], ['a', 'b']], [[], []]] as Array<[string | string[] | undefined, string[]]>) {
    const hooks = endingWith(present, 'last')
    t.same([...hooks], [...expected, 'last'])
    t.equal(hooks.push('x', 'y'), expected.length + 3)
    hooks.unshift('w')
    hooks.push()
    hooks.push('z')
    t.same([...hooks], ['w', ...expected, 'x', 'y', 'z', 'last'])
    t.equal(Array.isArray(hooks), true)
    t.same(Object.keys(hooks), hooks.map((_, i) => String(i)), 'and it looks like any list')
  }
})

t.test('the list that was there is left as it is', async t => {
  const present = ['a']
  endingWith(present, 'last').push('b')
  t.same(present, ['a'])
})
