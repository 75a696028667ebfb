-- What sqlite3 computes: integers, doubles, text, indexes, windows, JSON, and a file that is
-- written, rolled back, vacuumed and checked.
.bail on
CREATE TABLE n(i INTEGER PRIMARY KEY, r REAL, k INTEGER, t TEXT);
WITH RECURSIVE s(i, x) AS (SELECT 1, 1 UNION ALL SELECT i+1, (x*1103515245+12345) & 2147483647 FROM s WHERE i < 2000)
	INSERT INTO n SELECT i, x/2147483647.0, x%97, printf('%08x', x) FROM s;
SELECT count(*), sum(k), printf('%.17g %.17g %.17g', sum(r), avg(r*r), total(r/(k+1))) FROM n;
SELECT k, count(*), printf('%.17g', max(r)), min(t) FROM n GROUP BY k ORDER BY 2 DESC, k LIMIT 20;
CREATE INDEX by_t ON n(t);
CREATE INDEX by_k ON n(k, r);
SELECT a.i, b.i FROM n a JOIN n b ON a.t = b.t WHERE a.k = 7 AND b.i > 1000 ORDER BY 1, 2 LIMIT 30;
SELECT i, printf('%.12g', sum(r) OVER (ORDER BY i ROWS 9 PRECEDING)), rank() OVER (PARTITION BY k ORDER BY r) FROM n WHERE i % 200 = 0;
SELECT printf('%.15g', sqrt(r)), printf('%.15g', ln(r+1)), printf('%.15g', sin(r*100)), printf('%.15g', pow(r, 3.5)), round(r, 3), cast(r*1e18 AS INTEGER) FROM n WHERE i % 250 = 0;
SELECT json_group_array(json_object('i', i, 'r', r)) FROM n WHERE i <= 5;
SELECT 9223372036854775807 + 1, -9223372036854775808 / -1, 7 % -3, 1 << 62, 1e308 * 10, 0.1 + 0.2, 1/3.0;
BEGIN;
DELETE FROM n WHERE k % 2;
SELECT count(*) FROM n;
ROLLBACK;
SELECT count(*) FROM n;
DELETE FROM n WHERE k % 3 = 0;
VACUUM;
PRAGMA integrity_check;
.sha3sum
