// One folder for all that this process starts. A server's folder holds its pid while it lives, so that
// whatever is left when this process dies can be killed and removed, even if it dies by SIGKILL.
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const CLEAN = 'for f in "$1"/*/pid; do [ -f "$f" ] && kill -9 "$(cat "$f")" 2>/dev/null; done; rm -rf "$1"'

let root: string | undefined

export function scratchDir (): string {
  root ??= makeRoot()
  return mkdtempSync(join(root, 'server-'))
}

export function notePid (dir: string, pid: number): void {
  writeFileSync(join(dir, 'pid'), String(pid))
}

// Without this the clean-up would kill whichever process the system gave the number to next.
export function forgetPid (dir: string): void {
  rmSync(join(dir, 'pid'), { force: true })
}

function makeRoot (): string {
  const dir = mkdtempSync(join(tmpdir(), 'redis-suite-'))
  watch(dir)
  process.once('exit', () => spawnSync('sh', ['-c', CLEAN, 'clean', dir]))
  return dir
}

// Its standard input ends when this process does, which is how it learns of a death by signal.
function watch (dir: string): void {
  const watchdog = spawn('sh', ['-c', `cat >/dev/null; ${CLEAN}`, 'watchdog', dir], {
    cwd: '/',
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore']
  })
  watchdog.on('error', () => {})
  watchdog.unref()
  ;(watchdog.stdin as unknown as { unref (): void }).unref()
}
