/**
 * Looks at the processes of this machine, for tests which show that none is left behind.
 */
import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { promisify } from 'node:util';

/**
 * The ids of a process group's living members. One that has ended does not count, even when nobody has taken note of
 * its end yet, as happens where the first process of a container does not look after orphans.
 *
 * @param {number} group
 * @returns {Promise<number[]>}
 */
export async function groupMembers(group) {
  const processes = process.platform === 'linux' ? await linuxProcesses() : await psProcesses();
  return processes.filter((line) => line.group === group && !/^[ZX]/.test(line.state)).map((line) => line.id);
}

/** @typedef {{ id: number, group: number, state: string }} ProcessLine */

/** @returns {Promise<ProcessLine[]>} */
async function linuxProcesses() {
  const names = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const lines = await Promise.all(
    names.map(async (name) => {
      // The process may end meanwhile.
      const text = await readFile(`/proc/${name}/stat`, 'utf8').catch(() => '');
      // The second field is the program's name in parentheses and may hold anything.
      const [state = 'X', , group = '-1'] = text.slice(text.lastIndexOf(')') + 2).split(' ');
      return { id: Number(name), group: Number(group), state };
    }),
  );
  return lines;
}

/** @returns {Promise<ProcessLine[]>} */
async function psProcesses() {
  const { stdout } = await promisify(execFile)('ps', ['-A', '-o', 'pid=,pgid=,stat=']);
  return stdout
    .trim()
    .split('\n')
    .map((line) => {
      const [id = '', group = '', state = ''] = line.trim().split(/\s+/);
      return { id: Number(id), group: Number(group), state };
    });
}
