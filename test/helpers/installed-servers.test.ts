import { execFileSync } from 'node:child_process'
import { chmodSync, mkdirSync, renameSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import { mirrorOf } from '../../tools/servers/debian-packages.js'
import { scratchDir } from '../../tools/servers/scratch.js'
import { serverName } from '../../tools/servers/server-name.js'
import { writeLauncher } from '../../tools/servers/server-launcher.js'
import { chooseServers, isVersionOf, SERVERS } from '../../tools/servers/server-list.js'
import { readTap, withRows } from './docs/servers-table.js'

t.test('servers are chosen by name, with a binary of the user where one is given, and a wrong name lists all', async t => {
  t.same(chooseServers([]).map(({ server }) => server.name), SERVERS.map(({ name }) => name))
  const [valkey, redis] = chooseServers(['valkey-9', 'redis-6.2=/opt/a=b/redis-server'])
  t.match(valkey, { server: { name: 'valkey-9', package: 'valkey-server' }, binary: undefined })
  t.match(redis, { server: { name: 'redis-6.2' }, binary: '/opt/a=b/redis-server' })
  t.throws(() => chooseServers(['valkey-9', 'redis']), { message: /^unknown server "redis"; one of redis-6\.0, .*valkey-9/ })
})

t.test('a server has the version that its name promises, digit by digit', async t => {
  const cases: Array<[string, string, boolean]> = [
    ['redis-8', '8.6.3', true], ['redis-8', '80.1.0', false], ['redis-8', '7.8.8', false],
    ['redis-8.0', '8.0.2', true], ['redis-8.0', '8.6.3', false]
  ]
  t.same(cases.map(([name, version]) => [name, version, isVersionOf({ name, package: '', suites: [] }, version)]), cases)
})

t.test('the mirror is the one of the release of this machine, not one of its updates or of a third party', async t => {
  const uris = `'http://other.example/linux/dists/nodistro/InRelease' other.example_linux_InRelease 0 
'http://mirror.example/security/dists/bookworm-security/InRelease' mirror.example_security_InRelease 0 
'http://mirror.example/debian/dists/bookworm-updates/InRelease' mirror.example_debian_InRelease 0 
'http://mirror.example/debian/dists/bookworm/InRelease' mirror.example_debian_InRelease 0 
'http://mirror.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' mirror.example_debian_Packages 0 
`
  t.equal(mirrorOf(uris, 'bookworm'), 'http://mirror.example/debian')
  t.equal(mirrorOf(uris, 'trixie'), undefined)
})

t.test('a server is named by its own version, not by that of the Redis which it is compatible with', async t => {
  const infos = {
    'Redis 7.0.15': '# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n',
    'Valkey 9.1.2': '# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n',
    'Redict 7.3.6': '# Server\r\nredict_version:7.3.6\r\nredis_version:7.2.4\r\n',
    Redis: ''
  }
  t.same(Object.values(infos).map(serverName), Object.keys(infos))
})

t.test('the tests of files are counted, without the tests and assertions in them', async t => {
  const file = `TAP version 14
# Subtest: one
    ok 1 - should be equal
    not ok 2 - should be equal
not ok 1 - one # time=5ms
ok 2 - two \\# with a sharp # time=5ms
ok 3 - three # SKIP SSUBSCRIBE needs Redis 7
`
  const other = 'TAP version 14\nok 1 - one # SKIP SSUBSCRIBE needs Redis 7\n'
  t.same(readTap([file, other]), { passed: 1, failed: 1, skipped: new Map([['SSUBSCRIBE needs Redis 7', 2]]) })
})

t.test('a run replaces the rows of its servers in the table, adds new ones in order, and leaves the others', async t => {
  const page = (...rows: string[]) => `before

<!-- servers: written by npm run test:servers -->

| server |
|---|
${rows.join('\n')}

<!-- end -->

after <!-- end -->
`
  const old = ['| Redis 7.0.1 | `redis-7` |', '| Valkey 9.0.0 | `valkey-9` |']
  const none = { passed: 8, failed: 0, skipped: new Map(), origin: 'Debian sid' }
  const results = [
    { ...none, name: 'valkey-9', version: '9.1.2' },
    { ...none, name: 'redis-6.2', version: '6.2.16', skipped: new Map([['SSUBSCRIBE needs Redis 7', 2]]), failed: 1, origin: 'compiled' }
  ]
  t.equal(withRows(page(...old), results, ['redis-6.2', 'redis-7', 'valkey-9']), page(
    '| Redis 6.2.16 | `redis-6.2` | compiled | 8 | 1 | 2 (SSUBSCRIBE needs Redis 7) |',
    '| Redis 7.0.1 | `redis-7` |',
    '| Valkey 9.1.2 | `valkey-9` | Debian sid | 8 | 0 | 0 |'
  ))
  t.throws(() => withRows('a page without a table', results, []), /no table of servers/)
})

/** A program that prints its name, Lua's path of modules and its arguments, in place of a loader. */
function writeFile (file: string): void {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, '#!/bin/sh\nprintf "%s\\n" "$(basename "$0")" "$LUA_CPATH" "$@"\n')
  chmodSync(file, 0o755)
}

t.test('a server that was unpacked is started by its own loader and with its own libraries, also from a folder that was moved', async t => {
  const folder = scratchDir()
  const unpacked = join(folder, 'unpacked')
  writeFile(join(unpacked, 'root/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2'))
  writeFile(join(unpacked, 'root/usr/lib/x86_64-linux-gnu/libssl.so.3'))
  writeFile(join(unpacked, 'root/usr/lib/valkey/module.so'))
  // An absolute link of the package's, which is the loader of this machine.
  mkdirSync(join(unpacked, 'root/lib64'))
  symlinkSync('/lib64/ld-linux-x86-64.so.2', join(unpacked, 'root/lib64/ld-linux-x86-64.so.2'))
  writeLauncher(unpacked, 'valkey-server')

  const moved = join(folder, 'moved here')
  renameSync(unpacked, moved)
  t.same(execFileSync(join(moved, 'valkey-server'), ['redis.conf', '--a "b"'], { encoding: 'utf8' }).trimEnd().split('\n'), [
    'ld-linux-x86-64.so.2',
    `${moved}/root/usr/lib/x86_64-linux-gnu/lua/5.1/?.so;${moved}/root/lib/x86_64-linux-gnu/lua/5.1/?.so;;`,
    '--library-path', `${moved}/root/usr/lib/x86_64-linux-gnu:${moved}/root/lib/x86_64-linux-gnu`,
    `${moved}/root/usr/bin/valkey-server`, 'redis.conf', '--a "b"'
  ])
  t.throws(() => writeLauncher(folder, 'valkey-server'), /has no loader/)
})
