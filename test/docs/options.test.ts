import t from 'tap'
import { pagesOf, readPage } from '../helpers/docs/doc-blocks.js'
import { defaultOf, documentedOptions, OPTION_TABLES, renderOptions, tablesOn } from '../helpers/docs/option-tables.js'

const types = Object.keys(OPTION_TABLES)

t.test('the pages have the tables of options that `npm run docs:write` writes', async t => {
  for (const page of pagesOf()) t.equal(readPage(page), renderOptions(page), page)
  t.same(pagesOf().flatMap(tablesOn).sort(), types.toSorted())
})

t.test('the table of an option type has the default that its TSDoc states', async t => {
  const wrong = types.flatMap(type => documentedOptions(type).map(option => {
    const { [option.name]: row } = OPTION_TABLES[type]!
    const expected = row === undefined || row.isRequired ? 'none' : defaultOf(row).replaceAll('`', '')
    return { option: `${type}.${option.name}`, stated: option.default.replaceAll('`', ''), expected }
  })).filter(({ stated, expected }) => stated !== expected)
  t.same(wrong, [])
})

t.test('the text of an option is made of sentences', async t => {
  const texts = types.flatMap(type => documentedOptions(type).map(({ name, text }) => `${type}.${name}: ${text}`))
  t.ok(texts.length > 4, `${texts.length} options`)
  t.same(texts.filter(text => !/^\w+\.\w+: [A-Z`].*\.$/.test(text)), [])
})
