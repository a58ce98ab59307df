// Replaces the placeholder of the repository's owner: `npx tsx test/helpers/tools/set-owner.ts <owner>`. With `--check`, which npm runs before it publishes,
// fails while there is a placeholder.
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from '../docs/doc-blocks.js'

/** The owner of the repository on GitHub, and the author of the package. */
const PLACEHOLDER = /\bOWNER\b/g
const [owner = ''] = process.argv.slice(2)

if (owner === '--check') {
  if (readFileSync(join(root, 'package.json'), 'utf8').includes('OWNER')) throw new Error('package.json has the placeholder OWNER: see "The first release" in CONTRIBUTING.md')
} else {
  if (!/^[a-z\d](?:-?[a-z\d])*$/i.test(owner)) throw new Error('the argument must be a user or an organization of GitHub')
  const files = execFileSync('git', ['grep', '-lw', 'OWNER', '--', 'package.json', '*.md', ':!CONTRIBUTING.md'], { cwd: root, encoding: 'utf8' }).trim().split('\n')
  for (const file of files) {
    writeFileSync(join(root, file), readFileSync(join(root, file), 'utf8').replaceAll(PLACEHOLDER, owner))
    console.log(file)
  }
}
