import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { scratchDir } from '../../../tools/servers/scratch.js'

/** The newest pre-release of the next major version. */
const FASTIFY_6 = '6.0.0-alpha.4'

/**
 * Installs the pre-release beside the project's own Fastify.
 *
 * @returns its folder, for the environment variable `TEST_FASTIFY`; it is removed with this process
 * @throws if Node.js is too old for it
 */
export function installFastify6 (): string {
  // It calls `Promise.withResolvers`, which Node.js 20 does not have.
  if (!('withResolvers' in Promise)) throw new Error(`Fastify 6 needs Node.js 22 or newer, but this is ${process.version}`)
  const folder = scratchDir()
  execFileSync('npm', ['install', '--no-save', '--no-audit', '--no-fund', '--silent', '--prefix', folder, `fastify@${FASTIFY_6}`], { stdio: 'inherit' })
  return join(folder, 'node_modules/fastify')
}
