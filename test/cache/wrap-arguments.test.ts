import { isDeepStrictEqual } from 'node:util'
import { createContext, runInContext } from 'node:vm'
import fc from 'fast-check'
import t from 'tap'
import { argumentKey } from '../../plugins/cache/data/argument-key.js'
import { createCacheApp } from '../helpers/cache/cache-app.js'

const REFUSED_BY = 'FST_REDIS_SUITE_CACHE_INVALID_OPTION'

class Point {
  readonly x: number
  constructor (x: number) { this.x = x }
}
class Secret {
  readonly #secret: string
  constructor (secret: string) { this.#secret = secret }
  reveal () { return this.#secret }
}
class Dates extends Date {}
class List extends Array<number> {}

const cycle: Record<string, unknown> = {}
cycle['self'] = { cycle }
const cyclicMap = new Map<string, unknown>()
cyclicMap.set('self', cyclicMap)
let deep: unknown = 1
for (let i = 0; i < 100_000; i++) deep = [deep]

/** Values whose texts could be equal. */
const REFUSED: Record<string, unknown> = {
  Headers: new Headers({ a: '1' }),
  'an instance': new Point(1),
  'an instance with private fields': new Secret('a'),
  'an instance of a subclass of Date': new Dates(0),
  'an instance of a subclass of Array': List.from([1]),
  'an object with a prototype of its own': Object.create({ id: 1 }) as unknown,
  'an object whose prototype has no prototype': Object.create(Object.create(null, { id: { value: 1 } }) as object) as unknown,
  'a fake Date': Object.create(Date.prototype) as unknown,
  'a fake Map': Object.create(Map.prototype) as unknown,
  'a fake URL': Object.create(URL.prototype) as unknown,
  'a Date with a property': Object.assign(new Date(0), { zone: 'UTC' }),
  'a Map with a property': Object.assign(new Map(), { a: 1 }),
  'a buffer with a property': Object.assign(Buffer.from('a'), { a: 1 }),
  'a buffer of more than 64 KiB': Buffer.alloc(65_537),
  'a RegExp with a property': Object.assign(/a/, { a: 1 }),
  'a function': () => 1,
  'a symbol': Symbol('a'),
  'a Symbol in a Map': new Map([[Symbol('a'), 1]]),
  'an Error': new Error('a'),
  'a promise': Promise.resolve(1),
  'a WeakMap': new WeakMap(),
  'a String object': Object('a') as unknown,
  'a Number object': Object(1) as unknown,
  'a DataView': new DataView(new ArrayBuffer(1)),
  'an ArrayBuffer': new ArrayBuffer(1),
  'a Blob': new Blob(['a']),
  'a FormData': new FormData(),
  'an AbortSignal': AbortSignal.abort(),
  'an array with a hole': new Array<number>(1),
  'an array with a hole and a property': Object.assign(new Array<number>(1), { a: 1 }),
  'an array with a property': Object.assign([1], { a: 1 }),
  'an object with a getter': { get id () { return 1 } },
  'an object with a hidden property': Object.defineProperty({}, 'id', { value: 1 }),
  'an object with a symbol as a property': { [Symbol('a')]: 1 },
  'an object of another realm': runInContext('({ a: 1 })', createContext()) as unknown,
  arguments: (function (..._: unknown[]) { return arguments })(1),
  'a cycle': cycle,
  'a cyclic Map': cyclicMap,
  'data that is nested too deeply': deep,
  'a proxy that throws': new Proxy({}, { ownKeys: () => { throw new Error('no') } })
}

for (const [what, value] of Object.entries(REFUSED)) {
  t.test(`wrap refuses ${what} as an argument, alone or within data, with a coded error that names the remedy`, async t => {
    const { app } = await createCacheApp(t)
    let runs = 0
    const wrapped = app.cache.wrap((..._: unknown[]) => ++runs, { key: 'w' })
    for (const [given, at] of [[[value], 1], [[1, { a: [value] }], 2], [['x', new Map([[1, value]])], 2]] as const) {
      await t.rejects(wrapped(...given), { code: REFUSED_BY, message: new RegExp(`wrap "w": argument ${at} holds .*; give wrap the option "key" as a function of the arguments`) })
    }
    t.equal(runs, 0)
    const byKey = app.cache.wrap((..._: unknown[]) => ++runs, { key: async (_: unknown, id: string) => await Promise.resolve(`by ${id}`) })
    t.same([await byKey(value, 'a'), await byKey(value, 'a'), await byKey(value, 'b')], [1, 1, 2])
  })
}

/** Lists of arguments that differ from each other. */
const DIFFERENT: unknown[][] = [
  [], [undefined], [undefined, undefined], [null], ['null'], ['undefined'], [0], [-0], [NaN], [Infinity], [-Infinity], ['0'], ['NaN'], [0n], [1], [1n], ['1n'], ['1'], [true], ['true'], [false],
  [{}], [[]], [[undefined]], [[null]], [[[]]], [{ a: undefined }], [{ a: null }], [{ a: 1 }], [{ a: 1, b: 2 }], [{ b: 2, a: 1 }], [{ a: { b: 1 } }], [{ 'a":{"b': 1 }], [Object.create(null)],
  [Object.assign(Object.create(null) as object, { a: 1 })], [JSON.parse('{"__proto__":1}')], [JSON.parse('{"__proto__":{"a":1}}')], [{ constructor: 1 }],
  [new Date(0)], [new Date(1)], [new Date(NaN)], ['Date(0)'], [{ date: 0 }], [new Map()], [new Map([[1, 2]])], [new Map([['1', 2]])], [new Map([[1, 2], [3, 4]])], [new Map([[3, 4], [1, 2]])],
  [new Map([[{ a: 1 }, 1]])], [new Map([[{ a: 2 }, 1]])], [new Set()], [new Set([1])], [new Set(['1'])], [new Set([1, 2])], [new Set([2, 1])], [[[1, 2]]], [/a/], [/a/g], [/b/], ['/a/'],
  [new URL('http://a/')], [new URL('http://b/')], [new URL('http://a/?b')], ['http://a/'], [new URLSearchParams()], [new URLSearchParams('a=1')], [new URLSearchParams('a=2')], [new URLSearchParams('a=1&a=2')],
  [new URLSearchParams('a=2&a=1')], ['a=1'], [Buffer.from('a')], [Buffer.from('b')], [new Uint8Array([97])], [new Int8Array([97])], [new Uint16Array([97])], [new Uint8Array([97, 0])], [new Float64Array([0])],
  [new Float64Array([-0])], [new BigInt64Array([0n])], ['\ud800'], ['\ud801'], ['�'], [{ '\ud800': 1 }], [{ '\ud801': 1 }], ['a', 'b'], ['a,b'], [['a', 'b']], [['a'], 'b'], ['a', ['b']]
]

t.test('arguments that differ have different keys', async t => {
  const keys = new Map<string, unknown[]>()
  for (const args of DIFFERENT) {
    const key = argumentKey('w', args)
    t.equal(keys.has(key), false, `${key} of the arguments at ${DIFFERENT.indexOf(args)}`)
    keys.set(key, args)
  }
})

t.test('equal arguments have one key', async t => {
  const build = () => [{ a: [1, { b: new Date(5) }], c: new Map([['d', new Set([1n])]]) }, new URL('http://a/?b=1'), new URLSearchParams('a=1'), Buffer.from('abc').subarray(1), /a/g, -0, '\ud800']
  t.equal(argumentKey('w', build()), argumentKey('w', build()))
  t.equal(argumentKey('w', [Object.create(Object.create(null) as object)]), argumentKey('w', [Object.create(null)]), 'objects of parsers have an empty prototype')
  t.equal(argumentKey('w', ['a', 1, true, null]), 'w:["a",1,true,null]', 'simple arguments can be read')
})

t.test('the query, the parameters and the headers of a request are arguments', async t => {
  const { app } = await createCacheApp(t)
  let runs = 0
  const wrapped = app.cache.wrap((..._: unknown[]) => ++runs, { key: 'w' })
  app.get('/:id', async ({ query, params, headers }) => await wrapped(query, params, headers))
  const bodies: string[] = []
  for (const url of ['/1?a=1', '/1?a=1', '/1?a=2', '/2?a=2']) bodies.push((await app.inject(url)).body)
  t.same(bodies, ['1', '1', '2', '3'])
})

const scalar = fc.oneof(fc.string({ unit: 'binary', maxLength: 3 }), fc.constantFrom('', '0', 'null', 'undefined', 'NaN', '1n', '[]', '{}', '"', '\\', ',', '__proto__'), fc.integer({ min: -2, max: 2 }),
  fc.constantFrom(-0, NaN, Infinity, -Infinity, undefined, null, true, false), fc.bigInt({ min: -2n, max: 2n }))
const name = fc.constantFrom('a', 'b', '', '0', 'length', '__proto__', 'constructor', 'toJSON', '"', 'a":1,"b')
const { value: anyValue } = fc.letrec<{ value: unknown }>(tie => ({
  value: fc.oneof({ maxDepth: 3 }, scalar, scalar, fc.array(tie('value'), { maxLength: 3 }),
    fc.array(fc.tuple(name, tie('value')), { maxLength: 3 }).map(entries => {
      const object: object = {}
      for (const [key, value] of entries) Object.defineProperty(object, key, { value, enumerable: true, writable: true, configurable: true })
      return object
    }),
    fc.array(fc.tuple(tie('value'), tie('value')), { maxLength: 2 }).map(entries => new Map(entries)), fc.array(tie('value'), { maxLength: 2 }).map(values => new Set(values)),
    fc.integer({ min: 0, max: 2 }).map(time => new Date(time)), fc.uint8Array({ maxLength: 2 }).map(bytes => bytes.length === 1 ? Buffer.from(bytes) : bytes), fc.constantFrom(/a/, /a/g, /b/),
    fc.constantFrom('a', 'b').map(host => new URL(`http://${host}/`)), fc.constantFrom('', 'a=1', 'a=2').map(text => new URLSearchParams(text)))
}))

/** Deep equality, except that Node.js 20 considers all URLs equal. */
function isEqual (a: unknown, b: unknown): boolean {
  const plain = (value: unknown): unknown => {
    if (value instanceof URL || value instanceof URLSearchParams) return [value.constructor.name, value.toString()]
    if (value instanceof Map) return new Map([...value].map(([key, item]) => [plain(key), plain(item)]))
    if (value instanceof Set) return new Set([...value].map(plain))
    if (Array.isArray(value)) return value.map(plain)
    if (typeof value !== 'object' || value === null || Object.getPrototypeOf(value) !== Object.prototype) return value
    return new Map(Object.entries(value).map(([key, item]) => [`property ${key}`, plain(item)]))
  }
  return isDeepStrictEqual(plain(a), plain(b))
}

t.test('arguments that are not deeply equal never share a key, and equal ones always do', async t => {
  const SEED = 17
  const lists = fc.sample(fc.array(anyValue, { maxLength: 2 }), { seed: SEED, numRuns: 4000 })
  const again = fc.sample(fc.array(anyValue, { maxLength: 2 }), { seed: SEED, numRuns: 4000 })
  const byKey = new Map<string, unknown[]>()
  let shared = 0
  for (const [index, args] of lists.entries()) {
    const key = argumentKey('w', args)
    if (key !== argumentKey('w', again[index] ?? [])) t.fail(`two keys of the arguments at ${index}`)
    const other = byKey.get(key)
    if (other === undefined) byKey.set(key, args)
    else if (isEqual(args, other)) shared++
    else t.fail(`one key of different arguments at ${index}`)
  }
  t.ok(byKey.size > 1000 && shared > 100, `${byKey.size} keys, ${shared} that are shared`)
})
