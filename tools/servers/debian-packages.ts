// Downloads a package of another release of Debian with everything that it depends on. An apt with folders of its own
// does it, so that nothing on this machine changes.
import { execFile } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

// For a mirror that accepts connections and sends nothing.
const TIMEOUT = 5 * 60_000

/** A server cannot be installed on this machine; the message is the reason. */
export class NotInstallable extends Error {}

/**
 * Downloads the newest version that the last suite has.
 *
 * @param dir - an empty folder for the package lists and the packages
 * @returns the paths of the packages
 * @throws NotInstallable with the reason
 */
export async function downloadPackage (name: string, suites: readonly string[], dir: string): Promise<string[]> {
  const mirror = await findMirror()
  for (const folder of ['lists/partial', 'archives/partial', 'none']) mkdirSync(join(dir, folder), { recursive: true })
  writeFileSync(join(dir, 'sources.list'), suites.map(suite => `deb ${mirror} ${suite} main\n`).join(''))
  // This apt finds no package installed, so that it downloads the C library as well.
  writeFileSync(join(dir, 'status'), '')
  const settings = [
    `Dir::Etc::SourceList=${dir}/sources.list`, `Dir::Etc::SourceParts=${dir}/none`,
    `Dir::Etc::Preferences=${dir}/none`, `Dir::Etc::PreferencesParts=${dir}/none`,
    `Dir::State::Lists=${dir}/lists`, `Dir::State::Status=${dir}/status`,
    `Dir::Cache=${dir}`, `Dir::Cache::Archives=${dir}/archives`,
    'Debug::NoLocking=1',
    // The user `_apt` may not write to a folder of ours.
    'APT::Sandbox::User=root'
  ].flatMap(setting => ['-o', setting])
  await aptGet(...settings, 'update')
  const suite = suites.at(-1) ?? ''
  await aptGet(...settings, 'install', '--download-only', '--yes', '--no-install-recommends', '-t', suite, name)
  const archives = join(dir, 'archives')
  return readdirSync(archives).filter(file => file.endsWith('.deb')).map(file => join(archives, file))
}

/** The mirror that has the release which this machine runs; other releases are on the same one. */
async function findMirror (): Promise<string> {
  let release = ''
  try {
    release = readFileSync('/etc/os-release', 'utf8')
  } catch {}
  const codename = /^ID="?debian"?$/m.test(release) ? /^VERSION_CODENAME="?(\w+)/m.exec(release)?.[1] : undefined
  const mirror = codename && mirrorOf(await aptGet('update', '--print-uris'), codename)
  if (!mirror) throw new NotInstallable('this machine has no mirror of Debian in its apt configuration')
  return mirror
}

/** @param uris - the output of `apt-get update --print-uris` */
export function mirrorOf (uris: string, codename: string): string | undefined {
  return new RegExp(`^'(\\S+)/dists/${codename}/InRelease' `, 'm').exec(uris)?.[1]
}

async function aptGet (...args: string[]): Promise<string> {
  try {
    const { stdout } = await run('apt-get', args, { timeout: TIMEOUT, env: { ...process.env, LC_ALL: 'C' } })
    return stdout
  } catch (error) {
    const { stderr, message } = error as Error & { stderr?: string }
    throw new NotInstallable(/^E: .*/m.exec(stderr ?? '')?.[0] ?? message)
  }
}
