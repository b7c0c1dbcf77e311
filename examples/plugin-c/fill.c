/* `fill` in C: replaces `{{name}}` in every HTML page by the value that the step's config gives.
 *
 * An ordinary program for WASI preview 1; the host adapts it when it is admitted. The config is in the environment,
 * what is printed is the log, and what is left in /tmp/outputs.jsonl is the step's outputs. json.c reads the config. */

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "json.h"

#define RELEASE "/release"

/* Ends the step: a last line and exit code 1. */
_Noreturn void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    fputs("error: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

void *must(void *memory) {
    if (memory == NULL)
        fail("out of memory");
    return memory;
}

/* Bytes that grow. */
struct text {
    char *bytes;
    size_t length, room;
};

static void add(struct text *text, const char *bytes, size_t length) {
    if (text->room - text->length < length) {
        text->room = (text->length + length) * 2;
        text->bytes = must(realloc(text->bytes, text->room));
    }
    if (length > 0)
        memcpy(text->bytes + text->length, bytes, length);
    text->length += length;
}

static void add_escaped(struct text *text, const char *value) {
    for (; *value != '\0'; value++) {
        switch (*value) {
        case '&': add(text, "&amp;", 5); break;
        case '<': add(text, "&lt;", 4); break;
        case '"': add(text, "&quot;", 6); break;
        default: add(text, value, 1);
        }
    }
}

/* The first `mark` in the bytes, or NULL. */
static const char *find(const char *from, const char *end, const char *mark) {
    for (; end - from >= 2; from++)
        if (from[0] == mark[0] && from[1] == mark[1])
            return from;
    return NULL;
}

/* The text with every `{{name}}` replaced; says how many there were. */
static struct text fill(const struct text *page, const struct values *values, const char *path, unsigned *count) {
    struct text filled = {0};
    const char *rest = page->bytes, *end = page->bytes + page->length;
    for (;;) {
        const char *opened = find(rest, end, "{{");
        const char *closed = opened == NULL ? NULL : find(opened + 2, end, "}}");
        if (closed == NULL)
            break;
        const char *name = opened + 2, *name_end = closed;
        while (name < name_end && strchr(" \t\r\n", *name) != NULL)
            name++;
        while (name_end > name && strchr(" \t\r\n", name_end[-1]) != NULL)
            name_end--;
        const char *value = value_of(values, name, (size_t)(name_end - name));
        if (value == NULL)
            fail("%s: nothing fills {{%.*s}}", path, (int)(name_end - name), name);
        add(&filled, rest, (size_t)(opened - rest));
        add_escaped(&filled, value);
        *count += 1;
        rest = closed + 2;
    }
    add(&filled, rest, (size_t)(end - rest));
    return filled;
}

static struct text read_file(const char *path) {
    struct text text = {0};
    char block[4096];
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        fail("%s: %s", path, strerror(errno));
    for (size_t length; (length = fread(block, 1, sizeof block, file)) > 0;)
        add(&text, block, length);
    if (ferror(file))
        fail("%s: %s", path, strerror(errno));
    fclose(file);
    return text;
}

static void write_file(const char *path, const char *bytes, size_t length) {
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(bytes, 1, length, file) != length || fclose(file) != 0)
        fail("%s: %s", path, strerror(errno));
}

/* Every HTML page of the release. */
struct pages {
    char **paths;
    size_t count;
};

/* Links are not followed. */
static void look(struct pages *pages, const char *directory) {
    DIR *entries = opendir(directory);
    if (entries == NULL)
        fail("%s: %s", directory, strerror(errno));
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        size_t length = strlen(directory) + strlen(entry->d_name) + 2;
        char *path = must(malloc(length));
        snprintf(path, length, "%s/%s", directory, entry->d_name);
        struct stat stat;
        if (lstat(path, &stat) != 0)
            fail("%s: %s", path, strerror(errno));
        size_t name = strlen(entry->d_name);
        if (S_ISDIR(stat.st_mode)) {
            look(pages, path);
        } else if (S_ISREG(stat.st_mode) && name > 5 && strcmp(entry->d_name + name - 5, ".html") == 0) {
            pages->paths = must(realloc(pages->paths, (pages->count + 1) * sizeof *pages->paths));
            pages->paths[pages->count++] = path;
            continue;
        }
        free(path);
    }
    closedir(entries);
}

static int in_order(const void *left, const void *right) {
    return strcmp(*(char *const *)left, *(char *const *)right);
}

int main(void) {
    const char *config = getenv("COFFERDAM_CONFIG");
    struct values values = values_in(config == NULL ? "" : config);
    /* Every page may say where it comes from, too. */
    add_default(&values, "project", getenv("COFFERDAM_PROJECT"));
    add_default(&values, "deployment", getenv("COFFERDAM_DEPLOYMENT"));

    struct pages pages = {0};
    look(&pages, RELEASE);
    qsort(pages.paths, pages.count, sizeof *pages.paths, in_order);
    unsigned total = 0;
    for (size_t at = 0; at < pages.count; at++) {
        const char *path = pages.paths[at];
        struct text page = read_file(path);
        unsigned count = 0;
        struct text filled = fill(&page, &values, path, &count);
        if (count > 0) {
            write_file(path, filled.bytes, filled.length);
            printf("%s  %u placeholders\n", path + strlen(RELEASE "/"), count);
        }
        total += count;
        free(page.bytes);
        free(filled.bytes);
    }
    if (total == 0) {
        fflush(stdout);
        fputs("warning: no page has a placeholder\n", stderr);
    }
    char output[64];
    int length = snprintf(output, sizeof output, "{\"name\":\"filled\",\"value\":%u}\n", total);
    write_file("/tmp/outputs.jsonl", output, (size_t)length);
    return 0;
}
