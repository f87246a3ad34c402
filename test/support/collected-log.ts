/** What was logged, for tests to await and to read. It fits Nest's `LoggerService` and the consumer's `Log`. */
import { Inbox } from './waits.js';

export interface LogLine {
  readonly level: 'log' | 'warn' | 'error' | 'fatal';
  readonly text: string;
}

export class CollectedLog {
  readonly lines = new Inbox<LogLine>();

  log(message: unknown, ...more: unknown[]): void {
    this.#note('log', message, more);
  }

  warn(message: unknown, ...more: unknown[]): void {
    this.#note('warn', message, more);
  }

  error(message: unknown, ...more: unknown[]): void {
    this.#note('error', message, more);
  }

  fatal(message: unknown, ...more: unknown[]): void {
    this.#note('fatal', message, more);
  }

  /** Everything of that level, or of all levels. */
  text(level?: LogLine['level']): string {
    return this.lines.all
      .filter((line) => level === undefined || line.level === level)
      .map(({ text }) => text)
      .join('\n');
  }

  /** The next line of that level that holds the text. */
  async next(level: LogLine['level'], holding = ''): Promise<string> {
    const line = await this.lines.next(
      `a line of level ${level} with "${holding}" in the log`,
      (candidate) => candidate.level === level && candidate.text.includes(holding),
    );
    return line.text;
  }

  #note(level: LogLine['level'], message: unknown, more: readonly unknown[]): void {
    this.lines.push({ level, text: [message, ...more].map(String).join(' ') });
  }
}
