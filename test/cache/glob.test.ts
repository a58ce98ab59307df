import fc from 'fast-check'
import t from 'tap'
import { compileGlob } from '../../plugins/cache/glob.js'

t.test('a pattern passes the texts that it does in Redis', async t => {
  const table: Array<[string, string[], string[]]> = [
    ['', [''], ['a']], ['a', ['a'], ['', 'A', 'aa', 'ba']], ['*', ['', 'a', 'a\nb', '🫖'], []], ['**', ['', 'ab'], []], ['?', ['a', '\n', '🫖', '*'], ['', 'ab']], ['??', ['ab'], ['a', 'abc']],
    ['/items/*', ['/items/', '/items/1', '/items/1?a=b', '/items/1/2'], ['/items', 'x/items/1']], ['*/1', ['/1', 'a/1'], ['/1a', '1']], ['a*b*c', ['abc', 'aXbYc', 'abcbc'], ['ab', 'acb']],
    ['[ab]', ['a', 'b'], ['', 'c', 'ab', '[ab]']], ['[a-c]', ['a', 'b', 'c'], ['d', '-']], ['[c-a]', ['a', 'b', 'c'], ['d']], ['[^a]', ['b', '^', '\n'], ['a', '']], ['[^a-c]', ['d', '-'], ['b']], ['[a^]', ['a', '^'], ['b']],
    ['[a-]', ['a', '-'], ['b']], ['[-a]', ['a', '-'], ['b']], ['[a\\-z]', ['a', '-', 'z'], ['b', '\\']], ['[\\]]', [']'], ['\\', '\\]']], ['[\\\\]', ['\\'], [']']], ['[*?]', ['*', '?'], ['a', '']], ['[.]', ['.'], ['a']],
    ['[[]', ['['], ['[[]']], ['[^^]', ['a'], ['^']], ['[\\^a]', ['^', 'a'], ['\\', 'b']], ['[🫖]', ['🫖'], ['🫗']], ['[\uffff-🫖]', ['🫖', '\uffff', '😀'], ['a']], ['[🫖-\uffff]', ['🫖', '\uffff', '😀'], ['a']], ['[\\\n]', ['\n'], ['\\']],
    ['\\*', ['*'], ['a', '', '\\*']], ['\\?', ['?'], ['a']], ['\\[a]', ['[a]'], ['a']], ['\\\\', ['\\'], ['\\\\']], ['\\a', ['a'], ['\\a']], ['\\\n', ['\n'], ['\\\n', '\\']], ['a\\', ['a\\'], ['a']], ['\\🫖', ['🫖'], []],
    ['a.c', ['a.c'], ['abc']], ['a+', ['a+'], ['aa']], ['(a|b)', ['(a|b)'], ['a']], ['^a$', ['^a$'], ['a']], ['a{1}', ['a{1}'], ['a']], ['\\d', ['d'], ['1']], ['.*', ['.', '.a'], ['a', '']], ['.**', ['.', '.a'], ['a', '']], ['a/b', ['a/b'], []]
  ]
  for (const [glob, good, bad] of table) {
    const matches = compileGlob(glob)
    for (const text of good) t.equal(matches(text), true, `${JSON.stringify(glob)} ${JSON.stringify(text)}`)
    for (const text of bad) t.equal(matches(text), false, `${JSON.stringify(glob)} not ${JSON.stringify(text)}`)
  }
})

const text = fc.oneof(fc.string({ unit: fc.constantFrom(...'ab*?[]^-\\.\n/') }), fc.string({ unit: 'grapheme' }), fc.string({ unit: 'binary' }))

t.test('a text that is fully escaped passes itself alone', async () => {
  fc.assert(fc.property(text, text, (one, other) => {
    const matches = compileGlob([...one].map(character => `\\${character}`).join(''))
    return matches(one) && matches(other) === (one === other)
  }), { numRuns: 1000 })
})

t.test('a text without a meaning of its own passes itself alone', async () => {
  fc.assert(fc.property(text, text, (one, other) => {
    const plain = one.replaceAll(/[*?[\\]/g, '')
    return compileGlob(plain)(plain) && compileGlob(plain)(other) === (plain === other)
  }), { numRuns: 1000 })
})

t.test('what a pattern begins and ends with, * in between, is what passes', async () => {
  fc.assert(fc.property(text, text, text, (start, middle, end) => {
    const escape = (part: string) => part.replaceAll(/[*?[\\]/g, '\\$&')
    // Halves of a character that come together are one.
    fc.pre(!/[\ud800-\udfff]/u.test(start + end))
    return compileGlob(`${escape(start)}*${escape(end)}`)(start + middle + end)
  }), { numRuns: 1000 })
})

t.test('any text is a pattern', async t => {
  fc.assert(fc.property(text, text, (glob, other) => { compileGlob(glob)(other) }), { numRuns: 2000 })
  t.pass('none of them threw')
})
