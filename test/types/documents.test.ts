/** The snippets of documents that are whole programs, held to the compiler as this project's own sources are. */
import { expect, jest, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

/** The compiler reads all of Nest's types, on a busy machine. */
jest.setTimeout(180_000);

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** What snippets import and this project does not have. */
const AMBIENT = `declare module '@nestjs/config' {
  export class ConfigService {
    get<T>(key: string): T | undefined;
    get<T>(key: string, otherwise: NoInfer<T>): T;
    getOrThrow<T>(key: string): T;
  }
  export class ConfigModule {}
}`;

/** The blocks of TypeScript of a document, by the paths that they are given. */
function snippetsOf(document: string): Map<string, string> {
  const blocks = readFileSync(join(ROOT, document), 'utf8').matchAll(/^```ts\n(.*?)^```$/gms);
  return new Map([...blocks].map(([, text], index) => [join(ROOT, `test/types/${index}.snippet.ts`), text as string]));
}

/** What the compiler has against these files. */
function faultsOf(files: ReadonlyMap<string, string>): string[] {
  const { config } = ts.readConfigFile(join(ROOT, 'tsconfig.json'), (path) => ts.sys.readFile(path)) as {
    config: object;
  };
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, ROOT);
  const own = { ...options, noEmit: true, noUnusedLocals: false };
  const disk = ts.createCompilerHost(own);
  const host: ts.CompilerHost = {
    ...disk,
    readFile: (path) => files.get(path) ?? disk.readFile(path),
    fileExists: (path) => files.has(path) || disk.fileExists(path),
    getSourceFile: (path, version, ...more) => {
      const text = files.get(path);
      return text === undefined ? disk.getSourceFile(path, version, ...more) : ts.createSourceFile(path, text, version);
    },
  };
  const program = ts.createProgram({ rootNames: [...files.keys()], options: own, host });
  const snippets = program.getSourceFiles().filter(({ fileName }) => files.has(fileName));
  return snippets
    .flatMap((file) => [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)])
    .map(({ file, start, messageText }) => {
      const line = file === undefined ? 0 : file.getLineAndCharacterOfPosition(start ?? 0).line + 1;
      return `${file?.fileName ?? ''}:${line} ${ts.flattenDiagnosticMessageText(messageText, '\n')}`;
    });
}

test.each(['docs/migrating-from-golevelup.md'])('%s compiles', (document) => {
  const snippets = snippetsOf(document);
  expect(snippets.size).toBeGreaterThan(0);
  expect(faultsOf(new Map([...snippets, [join(ROOT, 'test/types/ambient.d.ts'), AMBIENT]]))).toEqual([]);
});
