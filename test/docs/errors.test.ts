import t from 'tap'
import { readPage } from '../helpers/docs/doc-blocks.js'
import { codedErrors } from '../helpers/docs/error-codes.js'

const sections = readPage('docs/errors.md').split(/^### /m).slice(1)
  .map(text => ({ text, flat: text.replaceAll(/\s+/g, ' '), codes: [...text.matchAll(/`(FST_REDIS_SUITE_\w+)`/g)].map(([, code = '']) => code) }))
const errors = codedErrors()

t.test('docs/errors.md has each error code once, with its status, messages, cause and fix', async t => {
  t.ok(errors.length > 70, `${errors.length} codes`)
  const wrong: string[] = []
  for (const { code, status, messages } of errors) {
    const [section, ...more] = sections.filter(({ codes }) => codes.includes(code))
    if (section === undefined || more.length > 0) {
      wrong.push(`${code} is in ${section === undefined ? 'no section' : 'several sections'}`)
      continue
    }
    const { flat, text, codes } = section
    if (!new RegExp(`Status: ${status}\\b|\`${code}\` \\| ${status} \\|`).test(text)) wrong.push(`${code}: the status is ${status}`)
    // An error of a call's own is on the page of its plugin.
    const expected = codes.length > 1 ? messages.filter(message => !message.startsWith('wrap ')) : messages
    for (const message of expected) if (!flat.includes(`\`${message.replaceAll('%s', '…')}\``)) wrong.push(`${code}: the message is ${message}`)
    if (!/- Cause: \S/.test(text) || !/- Fix: \S/.test(text)) wrong.push(`${code}: no cause or fix`)
  }
  t.same(wrong, [])
})

t.test('docs/errors.md has no code that does not exist', async t => {
  const known = new Set(errors.map(({ code }) => code))
  t.same(sections.flatMap(({ codes }) => codes).filter(code => !known.has(code)), [])
})
