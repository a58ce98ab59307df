import t from 'tap'
import { renderCode } from '../helpers/docs/code-includes.js'
import { pagesOf, readPage } from '../helpers/docs/doc-blocks.js'

t.test('each included block of code is the code of its file', async t => {
  t.same(pagesOf().filter(page => renderCode(readPage(page)) !== readPage(page)), [], 'pages to write again by: npm run docs:write')
})
