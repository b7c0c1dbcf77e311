#include "json.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const char *space(const char *at) {
    return at + strspn(at, " \t\r\n");
}

static const char *expect(const char *at, char wanted) {
    at = space(at);
    if (*at != wanted)
        fail("config: `%c` is expected at `%.20s`", wanted, at);
    return at + 1;
}

static uint32_t hex(const char *at) {
    uint32_t code = 0;
    for (int digit = 0; digit < 4; digit++) {
        static const char digits[] = "0123456789abcdef0123456789ABCDEF";
        const char *found = at[digit] == '\0' ? NULL : strchr(digits, at[digit]);
        if (found == NULL)
            fail("config: `\\u` is not followed by four hexadecimal digits");
        code = code * 16 + (uint32_t)(found - digits) % 16;
    }
    return code;
}

static char *utf8(char *to, uint32_t code) {
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xc0 | code >> 6);
        *to++ = (char)(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        *to++ = (char)(0xe0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 0x3f));
        *to++ = (char)(0x80 | (code & 0x3f));
    } else {
        *to++ = (char)(0xf0 | code >> 18);
        *to++ = (char)(0x80 | (code >> 12 & 0x3f));
        *to++ = (char)(0x80 | (code >> 6 & 0x3f));
        *to++ = (char)(0x80 | (code & 0x3f));
    }
    return to;
}

/* Reads a string. A text is never longer than its JSON. */
static const char *string(const char *at, char **text) {
    at = expect(at, '"');
    char *to = *text = must(malloc(strlen(at) + 1));
    while (*at != '"') {
        if (*at == '\0')
            fail("config: a string has no end");
        if (*at != '\\') {
            *to++ = *at++;
            continue;
        }
        static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
        char escape = at[1];
        at += 2;
        if (escape == 'u') {
            uint32_t code = hex(at);
            at += 4;
            if (code >= 0xd800 && code < 0xdc00 && at[0] == '\\' && at[1] == 'u') {
                code = 0x10000 + ((code & 0x3ff) << 10) + (hex(at + 2) & 0x3ff);
                at += 6;
            }
            to = utf8(to, code);
            continue;
        }
        const char *found = escape == '\0' ? NULL : strchr(escapes, escape);
        if (found == NULL)
            fail("config: `\\%c` means nothing", escape);
        *to++ = meanings[found - escapes];
    }
    *to = '\0';
    return at + 1;
}

static void add_value(struct values *values, char *name, char *text) {
    values->all = must(realloc(values->all, (values->count + 1) * sizeof *values->all));
    values->all[values->count++] = (struct value){name, text};
}

struct values values_in(const char *config) {
    struct values values = {0};
    char *key;
    const char *at = string(expect(config, '{'), &key);
    if (strcmp(key, "values") != 0)
        fail("config: there is `%s` where only `values` may be", key);
    free(key);
    at = space(expect(expect(at, ':'), '{'));
    while (*at != '}') {
        char *name, *text;
        at = string(at, &name);
        at = space(string(expect(at, ':'), &text));
        add_value(&values, name, text);
        if (*at != ',')
            break;
        at = space(at + 1);
    }
    at = space(expect(expect(at, '}'), '}'));
    if (*at != '\0')
        fail("config: it goes on after its end: `%.20s`", at);
    return values;
}

void add_default(struct values *values, const char *name, const char *text) {
    if (value_of(values, name, strlen(name)) != NULL)
        return;
    char *copies[] = {must(strdup(name)), must(strdup(text == NULL ? "" : text))};
    add_value(values, copies[0], copies[1]);
}

const char *value_of(const struct values *values, const char *name, size_t length) {
    for (size_t at = 0; at < values->count; at++) {
        const struct value *value = &values->all[at];
        if (strlen(value->name) == length && memcmp(value->name, name, length) == 0)
            return value->text;
    }
    return NULL;
}
