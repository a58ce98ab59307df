// The table of servers in docs/clients.md. `WRITE_DOCS=true npm run test:servers` replaces the rows of the servers that it ran on.
import { nameWithVersion } from '../../../tools/servers/server-name.js'

export interface LaneResult {
  passed: number
  failed: number
  /** How many tests were skipped, by reason. */
  skipped: Map<string, number>
}

export interface ServerResult extends LaneResult {
  /** As on the command line. */
  name: string
  version: string
  /** Where the program is from. */
  origin: string
}

/** Counts the tests of files by their TAP, without the tests and assertions in them. */
export function readTap (files: readonly string[]): LaneResult {
  const result: LaneResult = { passed: 0, failed: 0, skipped: new Map() }
  for (const [, not, reason] of files.join('\n').matchAll(/^(not )?ok \d+ - .*?(?: # SKIP (.*))?$/gm)) {
    if (reason !== undefined) result.skipped.set(reason, (result.skipped.get(reason) ?? 0) + 1)
    else if (not === undefined) result.passed++
    else result.failed++
  }
  return result
}

const TABLE = /(<!-- servers: written by npm run test:servers -->\n\n.*\n.*\n)([^]*?)(\n\n<!-- end -->)/

/** Returns the page with new rows in place of those of the same servers, and all rows in the order of `names`. */
export function withRows (page: string, results: readonly ServerResult[], names: readonly string[]): string {
  if (!TABLE.test(page)) throw new Error('the page has no table of servers')
  return page.replace(TABLE, (_table, head: string, before: string, end: string) => {
    const rows = new Map(before.split('\n').map(row => [/`(.*?)`/.exec(row)?.[1] ?? '', row]))
    for (const result of results) rows.set(result.name, rowOf(result))
    return head + names.flatMap(name => rows.get(name) ?? []).join('\n') + end
  })
}

function rowOf ({ name, version, origin, passed, failed, skipped }: ServerResult): string {
  const product = name.replace(/-.*/, '')
  const reasons = [...skipped].map(([reason, count]) => `${count} (${reason})`).join(', ')
  const cells = [nameWithVersion(product, version), `\`${name}\``, origin, passed, failed, reasons || 0]
  return `| ${cells.join(' | ')} |`
}
