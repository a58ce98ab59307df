// Programs of another Linux distribution, unpacked into a folder, run with the libraries beside them: a script starts
// them by their own loader.
import { chmodSync, existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/**
 * Writes the script `dir/program`, which starts `dir/root/usr/bin/program`. The folder may be moved afterwards.
 *
 * @returns the path of the script
 * @throws when the folder has no loader
 */
export function writeLauncher (dir: string, program: string): string {
  const folders = libraryFolders(join(dir, 'root'))
  // The loader of older releases is also in `/lib64`, as an absolute link, which leads out of the folder.
  const loader = folders.flatMap(folder => readdirSync(join(dir, 'root', folder))
    .filter(file => /^ld-linux.*\.so\.\d+$/.test(file)).map(file => `${folder}/${file}`))[0]
  if (loader === undefined) throw new Error(`${dir}/root has no loader`)
  const libraries = folders.map(folder => `$here/root/${folder}`).join(':')
  // Redis 6 and 7 of Debian load `cjson` as a module of Lua.
  const modules = folders.map(folder => `$here/root/${folder}/lua/5.1/?.so;`).join('')
  const script = join(dir, program)
  writeFileSync(script, `#!/bin/sh
here=\${0%/*}
export LUA_CPATH="${modules};"
exec "$here/root/${loader}" --library-path "${libraries}" "$here/root/usr/bin/${program}" "$@"
`)
  chmodSync(script, 0o755)
  return script
}

/** The folders of a platform's libraries, such as `usr/lib/x86_64-linux-gnu`. */
function libraryFolders (root: string): string[] {
  return ['usr/lib', 'lib'].filter(folder => existsSync(join(root, folder))).flatMap(folder =>
    readdirSync(join(root, folder)).filter(name => name.includes('-linux-gnu')).map(name => `${folder}/${name}`))
}
