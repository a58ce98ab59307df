import t from 'tap'
import { readPage } from '../helpers/docs/doc-blocks.js'

t.test('the glossary has each term once, in alphabetical order, in a few lines', async t => {
  const entries = readPage('docs/glossary.md').split('\n\n').filter(text => text.startsWith('**'))
  const terms = entries.map(text => /^\*\*(.+?)\.?\*\*/.exec(text)?.[1] ?? '')
  t.ok(terms.length >= 40, `${terms.length} terms`)
  t.same(terms, [...new Set(terms)].sort((a, b) => a.localeCompare(b, 'en', { sensitivity: 'base' })))
  t.same(entries.filter(text => text.split('\n').length > 3), [])
})

t.test('troubleshooting has a cause, a way to see it and a fix for each symptom, which the table at its top links', async t => {
  const [head = '', ...sections] = readPage('docs/troubleshooting.md').split(/^### /m)
  const incomplete = sections.filter(text => !text.startsWith('Does it ') && !text.includes('\n| cause | how to see it | fix |'))
    .filter(text => !text.includes('- Cause: ') || !/- See it: |\| what you find \|/.test(text) || !/- Fix:|\| fix \|/.test(text))
  t.same(incomplete.map(text => text.split('\n', 1)[0]), [])
  t.equal(head.match(/\]\(#/g)?.length, sections.length)
})
