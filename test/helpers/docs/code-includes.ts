// Blocks of code in docs/ that repeat a file, or a region of it, so that the code a reader copies is the code that the tests run:
// `<!-- code: examples/guides/login.ts#limits -->`, the block, `<!-- end of code -->`. A region is between `// #region limits` and `// #endregion`.
import { readFileSync } from 'node:fs'
import { extname, join } from 'node:path'
import { root } from './doc-blocks.js'

const INCLUDE = /^<!-- code: ([\w./-]+)(?:#([\w-]+))? -->\n[\s\S]*?<!-- end of code -->/gm

/** Returns the text of a page with its included code as it must be. */
export function renderCode (text: string): string {
  return text.replaceAll(INCLUDE, (_include, file: string, region: string | undefined) => {
    const marker = region === undefined ? file : `${file}#${region}`
    return `<!-- code: ${marker} -->\n\n\`\`\`${extname(file).slice(1)}\n${codeOf(file, region)}\n\`\`\`\n\n<!-- end of code -->`
  })
}

function codeOf (file: string, region: string | undefined): string {
  const text = readFileSync(join(root, file), 'utf8')
  const lines = (region === undefined ? text : regionOf(text, file, region)).split('\n').filter(line => !/^\s*\/\/ #(?:end)?region\b/.test(line))
  while (lines[0]?.trim() === '') lines.shift()
  while (lines.at(-1)?.trim() === '') lines.pop()
  const indents = lines.filter(line => line.trim() !== '').map(line => line.length - line.trimStart().length)
  const indent = Math.min(...indents)
  return lines.map(line => line.slice(indent)).join('\n').replaceAll(/'(?:\.\.\/)+plugins\/(?:([\w-]+)\/)?index\.js'/g, (_path, plugin?: string) => `'fastify-redis-suite${plugin === undefined ? '' : `/${plugin}`}'`)
}

function regionOf (text: string, file: string, region: string): string {
  const [, found] = new RegExp(`^ *// #region ${region}\\n([\\s\\S]*?)^ *// #endregion`, 'm').exec(text) ?? []
  if (found === undefined) throw new Error(`${file} has no region ${region}`)
  return found
}
