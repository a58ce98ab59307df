// Writes the tables of options and the included code into the pages of docs/. Run by `npm run docs:write`.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { renderCode } from '../docs/code-includes.js'
import { pagesOf, readPage, root } from '../docs/doc-blocks.js'
import { renderOptions } from '../docs/option-tables.js'

for (const page of pagesOf()) {
  const text = renderCode(renderOptions(page))
  if (text !== readPage(page)) console.log(page)
  writeFileSync(join(root, page), text)
}
