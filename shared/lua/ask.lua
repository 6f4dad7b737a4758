-- A question for whichever worker comes first, unless too many wait already.
local line, question = KEYS[1], KEYS[2]
local id, text, most, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

if redis.call('LLEN', line) >= most then return 0 end
redis.call('SET', question, text, 'EX', ttl)
redis.call('RPUSH', line, id)
redis.call('EXPIRE', line, ttl)
return 1
