// Writes the tables of options into the pages of docs/. Run by `npm run docs:options`.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pagesOf, readPage, root } from '../docs/doc-blocks.js'
import { renderOptions } from '../docs/option-tables.js'

for (const page of pagesOf()) {
  const text = renderOptions(page)
  if (text !== readPage(page)) console.log(page)
  writeFileSync(join(root, page), text)
}
